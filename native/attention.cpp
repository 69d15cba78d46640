// Attention on float32 values, in place of MLX's.
//
// MLX's CPU build makes it of general operations: scores of all queries and all keys, a select for those that are not seen,
// copies between layouts; and their gradients the same way. Here a task is one head's block of queries with the keys that
// the block sees, in memory that stays in the cache; backwards a task is one head of keys, with all of its queries. A task's
// sums do not depend on who does it: no result depends on the number of threads.
//
// Masks given as an array, sinks and other dtypes go to MLX's own function. Of transformations there is only the vjp.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "nodes.hpp"

extern "C" {
void scipy_cblas_sgemv(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void scipy_cblas_sgemm(
    int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
}

namespace {

using namespace mixbit;

enum { RowMajor = 101, NoTrans = 111, Trans = 112 };

// Queries in a block.
constexpr long block = 64;

struct Problem {
  float scale;
  bool causal;
  long batch, heads, kv_heads, queries, keys, dims, value_dims;

  Problem(const mx::array& q, const mx::array& k, const mx::array& v, float scale, bool causal)
      : scale(scale),
        causal(causal),
        batch(q.shape(0)),
        heads(q.shape(1)),
        kv_heads(k.shape(1)),
        queries(q.shape(2)),
        keys(k.shape(2)),
        dims(q.shape(3)),
        value_dims(v.shape(3)) {}

  // How many keys a query sees; the last one sees all.
  long seen(long query) const { return causal ? query + 1 + keys - queries : keys; }
  long blocks() const { return (queries + block - 1) / block; }
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
float* scratch(const Problem& problem, int which) {
  static thread_local std::vector<float> memory[2];
  memory[which].resize(std::max<size_t>(memory[which].size(), block * problem.keys));
  return memory[which].data();
}

// q, k, v and the gradient with respect to the output to those with respect to q, k and v.
class AttentionVjp : public mx::Primitive {
 public:
  AttentionVjp(mx::Stream stream, float scale, bool causal) : Primitive(stream), scale_(scale), causal_(causal) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const Problem problem(inputs[0], inputs[1], inputs[2], scale_, causal_);
    auto in = std::make_shared<std::vector<Heads>>(inputs.begin(), inputs.end());
    float *dq = allocate_tokens_first(outputs[0]), *dk = allocate_tokens_first(outputs[1]),
          *dv = allocate_tokens_first(outputs[2]);
    mx::cpu::get_command_encoder(stream()).dispatch([=] {
      for (Heads& heads : *in) heads.settle();
      spread(problem.batch * problem.kv_heads, 3 * problem.work(), worth_it,
             [&](long task) { head(problem, *in, task / problem.kv_heads, task % problem.kv_heads, dq, dk, dv); });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("this is a CPU build");
  }

  const char* name() const override { return "MixbitAttentionVjp"; }

 private:
  // One head of keys and values, and the heads of queries that look at it.
  static void head(const Problem& p, const std::vector<Heads>& in, long b, long kv_head, float* dq, float* dk, float* dv) {
    const Heads &q = in[0], &k = in[1], &v = in[2], &gradient = in[3];
    const float *keys = k.at(b, kv_head), *values = v.at(b, kv_head);
    const long dk_step = p.kv_heads * p.dims, dv_step = p.kv_heads * p.value_dims, dq_step = p.heads * p.dims;
    dk += (b * p.keys * p.kv_heads + kv_head) * p.dims;
    dv += (b * p.keys * p.kv_heads + kv_head) * p.value_dims;
    for (long i = 0; i < p.keys; ++i) {
      std::fill_n(dk + i * dk_step, p.dims, 0.0f);
      std::fill_n(dv + i * dv_step, p.value_dims, 0.0f);
    }
    float *weights = scratch(p, 0), *scores = scratch(p, 1);
    const long group = p.heads / p.kv_heads;
    for (long h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      for (long from = 0; from < p.queries; from += block) {
        const long until = std::min(p.queries, from + block), rows = until - from, count = p.seen(until - 1);
        const float *query = q.at(b, h) + from * q.step(), *dout = gradient.at(b, h) + from * gradient.step();
        p.weights(q.at(b, h), q.step(), keys, k.step(), from, until, weights);
        scipy_cblas_sgemm(RowMajor, Trans, NoTrans, count, p.value_dims, rows, 1.0f, weights, count, dout, gradient.step(),
                          1.0f, dv, dv_step);
        scipy_cblas_sgemm(RowMajor, NoTrans, Trans, rows, count, p.value_dims, 1.0f, dout, gradient.step(), values, v.step(),
                          0.0f, scores, count);
        // Keys that are not seen have weight 0 and stay there.
        each_row<SoftmaxVjp>(weights, scores, scores, rows, count);
        scipy_cblas_sgemm(RowMajor, NoTrans, NoTrans, rows, p.dims, count, p.scale, scores, count, keys, k.step(), 0.0f,
                          dq + ((b * p.queries + from) * p.heads + h) * p.dims, dq_step);
        scipy_cblas_sgemm(RowMajor, Trans, NoTrans, count, p.dims, rows, p.scale, scores, count, query, q.step(), 1.0f, dk,
                          dk_step);
      }
    }
  }

  float scale_;
  bool causal_;
};

class Attention : public mx::UnaryPrimitive {
 public:
  Attention(mx::Stream stream, float scale, bool causal) : UnaryPrimitive(stream), scale_(scale), causal_(causal) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const Problem problem(inputs[0], inputs[1], inputs[2], scale_, causal_);
    auto in = std::make_shared<std::vector<Heads>>(inputs.begin(), inputs.end());
    float* to = allocate_tokens_first(out);
    mx::cpu::get_command_encoder(stream()).dispatch([=] {
      for (Heads& heads : *in) heads.settle();
      spread(problem.batch * problem.heads * problem.blocks(), problem.work(), worth_it, [&](long task) {
        const long row = task / problem.blocks();
        queries(problem, *in, row / problem.heads, row % problem.heads, task % problem.blocks() * block, to);
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    std::vector<mx::array> inputs = primals;
    inputs.push_back(cotangents[0]);
    auto all = mx::array::make_arrays({primals[0].shape(), primals[1].shape(), primals[2].shape()},
                                      {mx::float32, mx::float32, mx::float32},
                                      std::make_shared<AttentionVjp>(stream(), scale_, causal_), inputs);
    std::vector<mx::array> wanted;
    for (int index : argnums) wanted.push_back(all[index]);
    return wanted;
  }

  const char* name() const override { return "MixbitAttention"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Attention&>(other);
    return scale_ == same.scale_ && causal_ == same.causal_;
  }

 private:
  // One head's block of queries.
  static void queries(const Problem& p, const std::vector<Heads>& in, long b, long h, long from, float* out) {
    const Heads &q = in[0], &k = in[1], &v = in[2];
    const long kv_head = h / (p.heads / p.kv_heads), until = std::min(p.queries, from + block), count = p.seen(until - 1);
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

  float scale_;
  bool causal_;
};

bool fits(const mx::array& q, const mx::array& k, const mx::array& v) {
  for (const mx::array* x : {&q, &k, &v}) {
    if (!ours(*x) || x->ndim() != 4 || x->shape(0) != q.shape(0)) return false;
  }
  return k.shape(2) >= q.shape(2) && v.shape(2) == k.shape(2) && v.shape(1) == k.shape(1) &&
         k.shape(3) == q.shape(3) && q.shape(1) % k.shape(1) == 0;
}

}  // namespace

mx::array mx::fast::scaled_dot_product_attention(const array& queries, const array& keys, const array& values, const float scale,
                                                 const std::string& mask_mode, std::optional<array> mask,
                                                 const std::optional<array>& sinks, bool force_fused, StreamOrDevice s) {
  const bool causal = mask_mode == "causal";
  if ((causal || mask_mode.empty()) && !mask && !sinks && fits(queries, keys, values)) {
    Shape shape = queries.shape();
    shape.back() = values.shape(3);
    return array(std::move(shape), float32, std::make_shared<Attention>(to_stream(s), scale, causal),
                 {queries, keys, values});
  }
  static auto* const function = stock(&mx::fast::scaled_dot_product_attention);
  return function(queries, keys, values, scale, mask_mode, mask, sinks, force_fused, s);
}
