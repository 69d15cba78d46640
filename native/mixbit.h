/* What our own library has beside mlx-c's functions. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif
/** What the values of a matrix are stored as, and the scales and biases of its groups: matrix.hpp says more. */
enum mixbit_code { MIXBIT_AFFINE, MIXBIT_FP4, MIXBIT_FP8, MIXBIT_HALF, MIXBIT_BRAIN };
enum mixbit_scale { MIXBIT_NO_SCALE, MIXBIT_FLOAT32_SCALE, MIXBIT_HALF_SCALE, MIXBIT_BRAIN_SCALE, MIXBIT_E8M0_SCALE, MIXBIT_E4M3_SCALE };
/** Activations that our nodes know. */
enum mixbit_activation { MIXBIT_NO_ACTIVATION, MIXBIT_SILU, MIXBIT_GELU, MIXBIT_GELU_TANH, MIXBIT_RELU2 };
/** Rows of a stripe of an interleaved matrix. */
#define MIXBIT_STRIPE_ROWS 16
/** An interleaved matrix begins at a multiple of this. */
#define MIXBIT_ALIGNMENT 64
/** Dimensions that heads of attention have at most. */
#define MIXBIT_MOST_HEAD_DIMS 512
/** Says how many threads are about to compute at once: as many as there are processors do their products alone. */
void mixbit_expect_callers(int callers);
/** Says whether this thread's next RMS norms, products, MLPs and attentions behind a cache are computed as they are made, where their
 * inputs have their values: for few rows, of which making and scheduling nodes takes a good part of the time. */
void mixbit_set_eager(int eager);
/** What an mlx_array points to: values of a type of mlx_dtype's that nobody has written yet. NULL if there is no memory. */
void* mixbit_array_unfilled(const int* shape, int dimensions, int dtype);
/** Names of the nodes that an array which is not computed yet will be computed by, each on a line, its own first. `array` is
 * what an mlx_array points to. The text lasts until the thread's next call. */
const char* mixbit_array_nodes(const void* array);
/** A linear layer: what mlx_arrays point to. A matrix [rows, columns] of float16 or bfloat16 without scales, or MLX's codes with
 * scales and, in affine mode, biases; and the layer's bias [rows], or NULL. With `interleaved`, `weight` is what mixbit_interleave
 * wrote of an affine matrix of `rows` and `columns` whose scales are `scale`, a mixbit_scale, from the first multiple of
 * MIXBIT_ALIGNMENT of the memory on. */
struct mixbit_linear {
  const void* weight;
  const void* scales;
  const void* biases;
  const void* bias;
  int group, bits;
  const char* mode;
  int interleaved, rows, columns, scale;
};
/** A stored matrix, as matrix.hpp describes it; `code` is a mixbit_code, `scale` a mixbit_scale. */
struct mixbit_matrix {
  const unsigned char* codes;
  const unsigned char* scales;
  const unsigned char* biases;
  long rows, columns;
  int bits, group, code, scale;
};
/** Bytes of sixteen rows of an affine matrix in the order that is fastest to multiply with; 0 where this processor has no such
 * order, or the matrix is of another kind. */
long mixbit_stripe_bytes(const struct mixbit_matrix* matrix);
/** Writes an affine matrix in that order, on our threads: as many times mixbit_stripe_bytes as there are sixteens of rows.
 * Returns 1, or 0 if there is no memory or no thread. */
int mixbit_interleave(const struct mixbit_matrix* matrix, unsigned char* to);
/** The rows at `indices`, which are uint32 and have their values, of an interleaved matrix: new float32 values [.., columns]. NULL
 * where the types are others, the memory is too small, or an index is too large. */
void* mixbit_interleaved_rows(const struct mixbit_linear* matrix, const void* indices);
/** The outputs of some linear layers for float32 activations x [.., columns], in float32, one beside the other: [.., rows of
 * all]. Of one: plus `addend`, unless that is NULL. x, addend and stream are what mlx_arrays and an mlx_stream point to. NULL
 * where the shapes or types are others. */
void* mixbit_products(const void* x, const struct mixbit_linear* linears, int count, const void* addend, const void* stream);
/** An RMS norm: its weight [columns], which an mlx_array points to, or NULL. */
struct mixbit_norm {
  const void* weight;
  float eps;
};
/** An MLP's layers: gate and up, or one of both, or up alone; and down. `activation` is a mixbit_activation. With `gated`,
 * what gate gives goes through it and is multiplied by what up gives. */
struct mixbit_mlp_layers {
  const struct mixbit_linear* first;
  int count, activation, gated;
  struct mixbit_linear down;
};
/** The output of an MLP for float32 x [.., columns], behind `norm` and plus `addend`, unless these are NULL. x, addend and stream
 * are what mlx_arrays and an mlx_stream point to. NULL where the shapes or types are others. */
void* mixbit_mlp(const void* x, const struct mixbit_norm* norm, const struct mixbit_mlp_layers* layers, const void* addend,
                 const void* stream);
/** Attention behind a cache. `norms`: heads of queries and keys are RMS-normed; `rotates`: and rotated as RoPE says, by angles
 * from position `rope_offset` on, and what is rotated multiplied by `rope_factor`. New keys and values are written from position `at` of the
 * cache on; queries then see its first `keys` positions, with `causal` each only those up to its own, which is the last ones'. */
struct mixbit_attention {
  int heads, kv_heads, dims;
  int norms;
  float norm_eps;
  int rotates, rope_dims, rope_traditional;
  float rope_base, rope_scale, rope_factor;
  int rope_offset;
  float scale;
  int at, keys, causal;
};
/** What attention reads. `norm` or NULL is a norm of x; `inputs` are the layers whose outputs, one beside the other, are
 * queries, keys and values [1, tokens, (heads + 2 kv_heads) * dims]; `output` or NULL is the layer that reads the heads' outputs.
 * The rest is what mlx_arrays point to: float32 x [1, tokens, columns]; the cache's keys and values [1, kv_heads, capacity, dims]
 * in float32 or float16; weights [dims] of the heads' norms, frequencies [rope_dims / 2] and what is added to the output
 * layer's, or NULL. */
struct mixbit_attention_parts {
  const void* x;
  const struct mixbit_norm* norm;
  const struct mixbit_linear* inputs;
  int count;
  const struct mixbit_linear* output;
  const void* addend;
  const void* keys;
  const void* values;
  const void* query_norm;
  const void* key_norm;
  const void* frequencies;
};
/** Gives three new arrays to `results`: the output layer's outputs, or the heads' [1, tokens, heads * dims], and the cache's keys
 * and values with the new ones. Returns 1, or 0 where the shapes or types are others. The caller drops its keys and values after
 * 1: the new ones are in the same memory if they have their values and nobody else holds them at the call. */
int mixbit_attend(const struct mixbit_attention* settings, const struct mixbit_attention_parts* parts, const void* stream,
                  void** results);
/** silu(gate) * up of float32 arrays of one shape as one node. The three are what mlx_arrays and an mlx_stream point to. NULL
 * where the shapes or types are others. */
void* mixbit_gated(const void* gate, const void* up, const void* stream);
/** exp(x) as our softmax and sigmoid have it on a processor without vectors. */
float mixbit_exponential(float x);
/** out [count, rows] = x [count, columns] times the transposed matrix, by the kernels "plain", "avx2", "avx512" or "vnni". Returns 1,
 * or 0 if there are none of that name for this processor. */
int mixbit_product_by(const char* kernels, const struct mixbit_matrix* matrix, const float* x, long count, float* out);
/** What one token's heads attend to: `count` keys and values [kv_heads, count, dims], of float16 with `halves`, else of float32. */
struct mixbit_one_query {
  float scale;
  long heads, kv_heads, count, dims;
  int halves;
  const void* keys;
  const void* values;
};
/** out [heads, dims] for q [heads, dims], by the kernels of a name. Returns 1, or 0 if there are none of that name for this
 * processor. */
int mixbit_attend_by(const char* kernels, const struct mixbit_one_query* query, const float* q, float* out);
#ifdef __cplusplus
}
#endif
