#if defined(__x86_64__)
#define KERNELS matrix_vnni
#include "matrix_kernels.inc"
#endif
