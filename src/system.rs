//! Memory of the process and its mappings, as the operating system counts it.

use memmap2::Mmap;

/// Bytes of the smallest page of the platforms that MLX runs on.
pub const PAGE_BYTES: usize = 4096;

/// Reads the bytes that the file `path` of /proc has for `key`, where there is such a file.
pub fn proc_bytes(path: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Returns the bytes of memory that are free without swapping, where the system tells.
pub fn available_memory() -> Option<u64> {
    proc_bytes("/proc/meminfo", "MemAvailable")
}

/// Tells the kernel that the whole pages of bytes `start..end` of `map` were read and need not stay mapped, so that resident
/// memory does not grow with the file.
pub fn release_pages(map: &Mmap, start: usize, end: usize) {
    #[cfg(unix)]
    {
        let (from, to) = (start.next_multiple_of(PAGE_BYTES), end / PAGE_BYTES * PAGE_BYTES);
        if from < to && to <= map.len() {
            // SAFETY: the mapping is shared, read-only and backed by a file, so dropped pages come back as they were when
            // they are read again.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) };
        }
    }
    #[cfg(not(unix))]
    let _ = (map, start, end);
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn proc_bytes_of_this_process() {
        assert!(proc_bytes("/proc/self/status", "VmHWM") > Some(1 << 20));
        assert_eq!(proc_bytes("/proc/self/status", "Name"), None);
        assert_eq!(proc_bytes("/proc/self/nothing", "VmHWM"), None);
    }
}
