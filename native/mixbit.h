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
/** The product [.., rows] of float32 activations x [.., columns] with a float16 or bfloat16 matrix w [rows, columns], in
 * float32: x @ w.T. The three are what mlx_arrays and an mlx_stream point to. NULL where the shapes or types are others. */
void* mixbit_product_with_halves(const void* x, const void* w, const void* stream);
/** silu(gate) * up of float32 arrays of one shape as one node. The three are what mlx_arrays and an mlx_stream point to. NULL
 * where the shapes or types are others. */
void* mixbit_gated(const void* gate, const void* up, const void* stream);
/** exp(x) as our softmax and sigmoid have it on a processor without vectors. */
float mixbit_exponential(float x);
/** A stored matrix, as matrix.hpp describes it; `code` and `scale` are its enumerations' numbers. */
struct mixbit_matrix {
  const unsigned char* codes;
  const unsigned char* scales;
  const unsigned char* biases;
  long rows, columns;
  int bits, group, code, scale;
};
/** out [count, rows] = x [count, columns] times the transposed matrix, by the kernels "plain", "avx2" or "avx512". Returns 1,
 * or 0 if there are none of that name for this processor. */
int mixbit_product_by(const char* kernels, const struct mixbit_matrix* matrix, const float* x, long count, float* out);
#ifdef __cplusplus
}
#endif
