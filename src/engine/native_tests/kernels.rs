//! Kernels of native/.

use std::ffi::CStr;

/// Names of the kernels that are compiled, each for a kind of processor.
pub(super) const KERNELS: [&CStr; 4] = [c"plain", c"avx2", c"avx512", c"vnni"];
