/* Holds every write to the disk for as long as a file exists: a disk that hangs. Preloaded into the program under test. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void hold(void) {
    const char *gate = getenv("TEST_SYNC_GATE");
    while (gate && access(gate, F_OK) == 0) usleep(10000);
}

int fsync(int file) {
    hold();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file) {
    hold();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}
