//! Memory of the process: how long freed pages stay mapped, and peak use.

/// Keeps freed memory in the process for a while, because the next temporary array needs the pages again: clearing them
/// anew took about a tenth of analyze's time on a model of a billion parameters. The delay is about the time of one
/// pass through a block, which grows with the model's `parameters`; without them it is a minute.
pub(crate) fn keep_pages(parameters: Option<u64>) {
    #[cfg(target_os = "linux")]
    {
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        const MAX_MILLISECONDS: u64 = 60_000;
        // 0.05 s for 5 M, 1.3 s for 135 M, where 0.1 s takes 9 % longer; more only holds memory.
        let milliseconds =
            parameters.map_or(MAX_MILLISECONDS, |count| (count / 100_000).min(MAX_MILLISECONDS));
        // SAFETY: sets a number.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds as libc::c_long) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parameters;
}

/// Returns freed memory to the system, between two stages of a job. Tokenizing leaves much of it.
pub fn give_back() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the allocator's own function for it; each thread has memory of its own.
        let collect = || unsafe { libmimalloc_sys::mi_collect(true) };
        rayon::broadcast(|_| collect());
        collect();
    }
}

/// Returns the peak resident memory of this process in bytes, where the system reports it.
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
