//! Memory of the process: pages kept and given back, and the peak.

/// From now on memory that is free stays with the process for a while, because the next temporary wants the pages again:
/// clearing them anew took about a tenth of analyze's time on a model of a billion parameters. It is wanted again within a
/// pass through a block, a time that grows with the `parameters` of the model; without them it stays a minute.
pub(crate) fn keep_pages(parameters: Option<u64>) {
    #[cfg(target_os = "linux")]
    {
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        const LONGEST: u64 = 60_000;
        // 0.05 s for 5 M, 1.3 s for 135 M, where 0.1 s takes 9 % longer; more only holds memory.
        let milliseconds = parameters.map_or(LONGEST, |count| (count / 100_000).min(LONGEST));
        // SAFETY: sets a number.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds as libc::c_long) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parameters;
}

/// Gives memory that is free back to the system, between two pieces of work. Tokenizing leaves much.
pub fn give_back() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the allocator's own function for it; each thread has memory of its own.
        let collect = || unsafe { libmimalloc_sys::mi_collect(true) };
        rayon::broadcast(|_| collect());
        collect();
    }
}

/// Peak resident memory of this process in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        crate::system::proc_bytes("/proc/self/status", "VmHWM")
    }
    #[cfg(not(target_os = "linux"))]
    {
        mlx_rs::memory::peak_memory().ok().map(|bytes| bytes as u64)
    }
}
