#if defined(__x86_64__)
#define KERNELS matrix_avx512
#include "matrix_kernels.inc"
#endif
