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
#include "attention.hpp"
#include "nodes.hpp"

namespace {

using namespace mixbit;

// q, k, v and the gradient with respect to the output to those with respect to q, k and v.
class AttentionVjp : public mx::Primitive {
 public:
  AttentionVjp(mx::Stream stream, float scale, bool causal) : Primitive(stream), scale_(scale), causal_(causal) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto in = std::make_shared<std::vector<Heads>>(inputs.begin(), inputs.end());
    const Problem problem(scale_, causal_, (*in)[0], (*in)[1], (*in)[2]);
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
      for (long from = 0; from < p.queries; from += query_block) {
        const long until = std::min(p.queries, from + query_block), rows = until - from, count = p.seen(until - 1);
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
    auto in = std::make_shared<std::vector<Heads>>(inputs.begin(), inputs.end());
    const Problem problem(scale_, causal_, (*in)[0], (*in)[1], (*in)[2]);
    float* to = allocate_tokens_first(out);
    mx::cpu::get_command_encoder(stream()).dispatch([=] {
      for (Heads& heads : *in) heads.settle();
      attend_all(problem, (*in)[0], (*in)[1], (*in)[2], to);
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
