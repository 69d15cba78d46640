// Attention of a block of queries of one head, on float32 values in memory that stays in the cache.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "nodes.hpp"
#include "one_query.hpp"

extern "C" {
void scipy_cblas_sgemv(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void scipy_cblas_sgemm(
    int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
}

namespace mixbit {

enum { RowMajor = 101, NoTrans = 111, Trans = 112 };

// Queries in a block.
constexpr long query_block = 64;

struct Problem {
  float scale;
  bool causal;
  long batch, heads, kv_heads, queries, keys, dims, value_dims;

  Problem(float scale, bool causal, const Heads& q, const Heads& k, const Heads& v)
      : scale(scale),
        causal(causal),
        batch(q.shape()[0]),
        heads(q.shape()[1]),
        kv_heads(k.shape()[1]),
        queries(q.shape()[2]),
        keys(k.shape()[2]),
        dims(q.shape()[3]),
        value_dims(v.shape()[3]) {}

  // How many keys a query sees; the last one sees all.
  long seen(long query) const { return causal ? query + 1 + keys - queries : keys; }
  long blocks() const { return (queries + query_block - 1) / query_block; }
  long work() const { return batch * heads * queries * keys * (dims + value_dims); }

  // The weights of the keys for the queries from .. until, [until - from, seen(until - 1)].
  void weights(const float* q, long q_step, const float* k, long k_step, long from, long until, float* out) const {
    const long count = seen(until - 1);
    if (until - from == 1) {
      scipy_cblas_sgemv(RowMajor, NoTrans, count, dims, scale, k, k_step, q + from * q_step, 1, 0.0f, out, 1);
    } else {
      scipy_cblas_sgemm(RowMajor, NoTrans, Trans, until - from, count, dims, scale, q + from * q_step, q_step, k, k_step, 0.0f,
                        out, count);
    }
    for (long query = from; query < until; ++query, out += count) {
      each_row<Softmax>(out, out, out, 1, seen(query));
      std::fill(out + seen(query), out + count, 0.0f);
    }
  }
};

// Scratch memory of a thread, for two blocks of scores.
inline float* scratch(const Problem& problem, int which) {
  static thread_local std::vector<float> memory[2];
  memory[which].resize(std::max<size_t>(memory[which].size(), query_block * problem.keys));
  return memory[which].data();
}

// Attention of the block of queries of head h that begins at `from`; `out` is [batch, queries, heads, value dims].
inline void attend(const Problem& p, const Heads& q, const Heads& k, const Heads& v, long b, long h, long from, float* out) {
  const long kv_head = h / (p.heads / p.kv_heads), until = std::min(p.queries, from + query_block), count = p.seen(until - 1);
  float* weights = scratch(p, 0);
  p.weights(q.at(b, h), q.step(), k.at(b, kv_head), k.step(), from, until, weights);
  const float* values = v.at(b, kv_head);
  float* to = out + ((b * p.queries + from) * p.heads + h) * p.value_dims;
  if (until - from == 1) {
    scipy_cblas_sgemv(RowMajor, Trans, count, p.value_dims, 1.0f, values, v.step(), weights, 1, 0.0f, to, 1);
  } else {
    scipy_cblas_sgemm(RowMajor, NoTrans, NoTrans, until - from, p.value_dims, count, 1.0f, weights, count, values, v.step(),
                      0.0f, to, p.heads * p.value_dims);
  }
}

// One token's attention as its kernels take it; nothing where they do not: other sizes, or rows that are apart.
inline std::optional<OneQuery> one_query_of(const Problem& p, const Heads& k, const Heads& v) {
  const bool side_by_side = k.step() == p.dims && v.step() == p.dims;
  if (p.batch > 1 || p.queries > 1 || p.value_dims != p.dims || !side_by_side) return std::nullopt;
  const auto apart = [&](const Heads& heads) { return p.kv_heads > 1 ? heads.at(0, 1) - heads.at(0, 0) : 0; };
  const OneQuery query{p.scale, p.heads, p.kv_heads, p.keys, p.dims, apart(k), apart(v), false};
  return query.fits() ? std::optional(query) : std::nullopt;
}

// Attention of all heads and queries, on our threads; `out` is [batch, queries, heads, value dims].
inline void attend_all(const Problem& p, const Heads& q, const Heads& k, const Heads& v, float* out) {
  if (const auto one = one_query_of(p, k, v)) {
    const auto bytes = [](const Heads& heads) { return reinterpret_cast<const uint8_t*>(heads.at(0, 0)); };
    // A single row's heads may be apart.
    const auto queries = std::make_unique_for_overwrite<float[]>(p.heads * p.dims);
    for (long h = 0; h < p.heads; ++h) std::copy_n(q.at(0, h), p.dims, queries.get() + h * p.dims);
    attend_one(best_kernels(), *one, queries.get(), bytes(k), bytes(v), out);
    return;
  }
  spread(p.batch * p.heads * p.blocks(), p.work(), worth_it, [&](long task) {
    const long row = task / p.blocks();
    attend(p, q, k, v, row / p.heads, row % p.heads, task % p.blocks() * query_block, out);
  });
}

}  // namespace mixbit
