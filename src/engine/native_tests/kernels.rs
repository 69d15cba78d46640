//! Kernels of native/.

use std::ffi::CStr;

/// Names of the kernels that are compiled, each for a kind of processor.
pub(super) const KERNELS: [&CStr; 4] = [c"plain", c"avx2", c"avx512", c"vnni"];

/// Fails where this processor has what the `kernels` need and they were left out all the same.
#[track_caller]
pub(super) fn assert_absent(kernels: &CStr) {
    #[cfg(target_arch = "x86_64")]
    let has_avx2 = std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    let has_avx2 = false;
    let must_run = kernels == c"plain" || (kernels == c"avx2" && has_avx2);
    assert!(!must_run, "the kernels {kernels:?} did not run");
}
