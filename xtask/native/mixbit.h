/* What our own library has beside mlx-c's functions. */
#pragma once
#include "mlx/c/array.h"
#ifdef __cplusplus
extern "C" {
#endif
/** Says how many threads are about to compute at once: as many as there are processors do their products alone. */
void mixbit_expect_callers(int callers);
/** An array of float32 values that nobody has written yet; no array if there is no memory. */
mlx_array mixbit_array_unfilled(const int* shape, int dimensions);
#ifdef __cplusplus
}
#endif
