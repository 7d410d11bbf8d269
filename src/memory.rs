//! The allocator, and what it asks of the kernel.

/// Records are read by one thread, completed by another and written by a third, so what one allocates another frees. The
/// system's allocator takes half of the time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Has this process take memory in small pages (`PR_SET_THP_DISABLE`, `man 2 prctl`). The allocator asks for huge ones, and
/// gives back a part of one soon after it was freed: for the next use of that part the kernel would clear 2 MiB again,
/// which took a tenth of all time. To be called before threads begin. Where it can't be done, nothing is lost but time.
#[cfg(target_os = "linux")]
pub fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages can't be turned off");
    }
}

/// Other systems have no such pages.
#[cfg(not(target_os = "linux"))]
pub const fn use_small_pages() {}
