#define KERNELS matrix_plain
#include "matrix_kernels.inc"
