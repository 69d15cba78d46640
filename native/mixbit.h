/* What our own library has beside mlx-c's functions. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif
/** Says how many threads are about to compute at once: as many as there are processors do their products alone. */
void mixbit_expect_callers(int callers);
/** What an mlx_array points to: float32 values that nobody has written yet. NULL if there is no memory. */
void* mixbit_array_unfilled(const int* shape, int dimensions);
/** Names of the nodes that an array which is not computed yet will be computed by, each on a line, its own first. `array` is
 * what an mlx_array points to. The text lasts until the thread's next call. */
const char* mixbit_array_nodes(const void* array);
/** exp(x) as our softmax and sigmoid have it on a processor without vectors. */
float mixbit_exponential(float x);
#ifdef __cplusplus
}
#endif
