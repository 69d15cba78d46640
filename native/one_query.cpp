// Attention of one token, by parts of its keys.

#include "one_query.hpp"

#include <algorithm>
#include <memory>

#include "threads.hpp"

namespace mixbit {

namespace {

// Keys of a part: with their values they stay in a core's cache.
constexpr long part_keys = 256;
// Multiplications from which waking another thread pays.
constexpr long worth_it = 1l << 16;

// Scores of a part as weights relative to the largest, for some heads: of each, out[0] is the largest score and out[1] the sum.
struct Weigh {
  INLINE void run(float* scores, long heads, long count, float scale, float* out, long step) {
    for (long h = 0; h < heads; ++h, scores += part_keys, out += step) {
      const float most = scale * reduce(count, -std::numeric_limits<float>::infinity(), larger, [&](long i) { return scores[i]; });
#pragma GCC ivdep
      for (long i = 0; i < count; ++i) scores[i] = exponential(scale * scores[i] - most);
      out[0] = most;
      out[1] = reduce(count, 0.0f, plus, [&](long i) { return scores[i]; });
    }
  }
};

// Adds up what `count` parts, each `step` values after the other, gave for a head.
struct AddParts {
  INLINE void run(const float* parts, long count, long step, long dims, float* out) {
    float most = parts[0];
    for (long i = 1; i < count; ++i) most = larger(most, parts[i * step]);
    std::fill_n(out, dims, 0.0f);
    float total = 0.0f;
    for (long i = 0; i < count; ++i) {
      const float* part = parts + i * step;
      const float factor = exponential(part[0] - most);
      total += factor * part[1];
#pragma GCC ivdep
      for (long d = 0; d < dims; ++d) out[d] += factor * part[2 + d];
    }
    const float inverse = 1.0f / total;
#pragma GCC ivdep
    for (long d = 0; d < dims; ++d) out[d] *= inverse;
  }
};

}  // namespace

void attend_one(const MatrixKernels& kernels, const OneQuery& p, const float* q, const uint8_t* keys, const uint8_t* values,
                float* out) {
  const long parts = (p.keys + part_keys - 1) / part_keys, step = p.dims + 2, of_part = p.heads * step;
  const auto memory = std::make_unique_for_overwrite<float[]>(parts * of_part);
  spread(p.kv_heads * parts, p.heads * p.keys * p.dims, worth_it, [&](long task) {
    const long part = task / p.kv_heads, head = task % p.kv_heads, from = part * part_keys, first = head * p.group();
    const long count = std::min(part_keys, p.keys - from), size = p.halves ? 2 : 4;
    const uint8_t* const some_keys = keys + (head * p.key_step + from * p.dims) * size;
    const uint8_t* const some_values = values + (head * p.value_step + from * p.dims) * size;
    const auto weights = std::make_unique_for_overwrite<float[]>(p.group() * part_keys);
    float* const of_heads = memory.get() + part * of_part + first * step;
    kernels.row_products(q + first * p.dims, p.group(), some_keys, p.halves, count, p.dims, weights.get(), part_keys);
    run<Weigh>(weights.get(), p.group(), count, p.scale, of_heads, step);
    kernels.row_sums(weights.get(), part_keys, p.group(), some_values, p.halves, count, p.dims, of_heads + 2, step);
  });
  for (long h = 0; h < p.heads; ++h) {
    run<AddParts, const float*>(memory.get() + h * step, parts, of_part, p.dims, out + h * p.dims);
  }
}

}  // namespace mixbit
