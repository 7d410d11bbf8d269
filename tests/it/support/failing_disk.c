/* A disk that fails: calls on what lies below TEST_DISK_ROOT give the error that the file TEST_DISK_FAULT names, for as
 * long as it exists. It holds a letter for each kind of call that fails (w: write, s: sync, o: open to write, make or
 * rename) and the number of the error: "wo 30". Preloaded into the program under test. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether such a call fails: sets errno. */
static int fails(char kind) {
    const char *control = getenv("TEST_DISK_FAULT");
    char text[32] = {0}, kinds[8];
    int number, file = control ? syscall(SYS_openat, AT_FDCWD, control, O_RDONLY) : -1;
    if (file < 0) return 0;
    long length = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (length <= 0 || sscanf(text, "%7s %d", kinds, &number) != 2 || !strchr(kinds, kind)) return 0;
    errno = number;
    return 1;
}

static int is_below(const char *path) {
    const char *root = getenv("TEST_DISK_ROOT");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static int is_of_the_disk(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

ssize_t write(int file, const void *bytes, size_t length) {
    return is_of_the_disk(file) && fails('w') ? -1 : NEXT(write)(file, bytes, length);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    return is_of_the_disk(file) && fails('w') ? -1 : NEXT(writev)(file, parts, count);
}
ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at) {
    return is_of_the_disk(file) && fails('w') ? -1 : NEXT(pwrite64)(file, bytes, length, at);
}
int fsync(int file) {
    return is_of_the_disk(file) && fails('s') ? -1 : NEXT(fsync)(file);
}
int fdatasync(int file) {
    return is_of_the_disk(file) && fails('s') ? -1 : NEXT(fdatasync)(file);
}
int ftruncate64(int file, off64_t length) {
    return is_of_the_disk(file) && fails('o') ? -1 : NEXT(ftruncate64)(file, length);
}
int rename(const char *from, const char *to) {
    return is_below(to) && fails('o') ? -1 : NEXT(rename)(from, to);
}
int mkdir(const char *path, mode_t mode) {
    return is_below(path) && fails('o') ? -1 : NEXT(mkdir)(path, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    return writes && is_below(path) && fails('o') ? -1 : NEXT(open64)(path, flags, mode);
}
