/* What our own library has beside mlx-c's functions. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif
/** Says how many threads are about to compute at once: as many as there are processors do their products alone. */
void mixbit_expect_callers(int callers);
/** What an mlx_array points to: float32 values that nobody has written yet. NULL if there is no memory. */
void* mixbit_array_unfilled(const int* shape, int dimensions);
#ifdef __cplusplus
}
#endif
