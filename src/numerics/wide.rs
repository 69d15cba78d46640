//! Code compiled for the widest vectors that the CPU has. Nothing is fused, so every instruction set gives the same bits.

#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

/// Instruction sets that [`wide!`] compiles for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vectors {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Vectors {
    /// Returns the widest that this CPU has.
    pub(crate) fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }
}

/// Defines a function that is compiled for every instruction set of [`Vectors`]. The functions that it calls and that have
/// loops must be `inline(always)`.
macro_rules! wide {
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident $(<$generic:ident: $bound:ident>)? ($($arg:ident: $type:ty),*) -> $output:ty $body:block
    ) => {
        $(#[$doc])*
        $vis fn $name $(<$generic: $bound>)? ($($arg: $type),*) -> $output {
            #[inline(always)]
            fn plain $(<$generic: $bound>)? ($($arg: $type),*) -> $output $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$generic: $bound>)? ($($arg: $type),*) -> $output {
                plain($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2 $(<$generic: $bound>)? ($($arg: $type),*) -> $output {
                plain($($arg),*)
            }
            match $crate::numerics::wide::Vectors::widest() {
                // SAFETY: the CPU has AVX-512's foundation, BW, DQ and VL.
                #[cfg(target_arch = "x86_64")]
                $crate::numerics::wide::Vectors::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: the CPU has AVX2.
                #[cfg(target_arch = "x86_64")]
                $crate::numerics::wide::Vectors::Avx2 => unsafe { avx2($($arg),*) },
                $crate::numerics::wide::Vectors::Plain => plain($($arg),*),
            }
        }
    };
}
pub(crate) use wide;

/// Work on groups of a size that is known when it is compiled.
pub(crate) trait Kernel {
    /// Result of the work.
    type Output;
    /// Works on groups of `GROUP` weights. Implementations are `inline(always)`.
    fn run<const GROUP: usize>(self) -> Self::Output;
}

wide! {
    /// Runs `kernel` on groups of 16, 32, 64 or 128 weights.
    pub(crate) fn run_kernel<K: Kernel>(group_size: usize, kernel: K) -> K::Output {
        by_group_size(group_size, kernel)
    }
}

#[inline(always)]
fn by_group_size<K: Kernel>(group_size: usize, kernel: K) -> K::Output {
    match group_size {
        16 => kernel.run::<16>(),
        32 => kernel.run::<32>(),
        64 => kernel.run::<64>(),
        _ => kernel.run::<128>(),
    }
}
