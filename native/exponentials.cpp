// softmax and sigmoid of float32 values, in place of MLX's, and silu(gate) * up as one operation.
//
// MLX's CPU build for x86 knows no vectors: it takes one exponential at a time, every step of the polynomial a call of
// fmaf, on one thread, and spends half of a forward pass there. This library comes before libmlx.so in the loader's search
// order, and libmlx.so too looks these two functions up by name: attention gets this softmax without a change.
//
// Rows are split over the threads and never within, and are summed in sixteen lanes on every processor: no result depends
// on the number of threads. Other dtypes and axes go to MLX's own functions. Values that are not finite come out as there: a
// row with a NaN or +infinity in it, or of -infinity alone, is NaN throughout. Of transformations there is only the vjp.

#include <memory>
#include <string>
#include <type_traits>

#include "mlx/backend/common/unary.h"
#include "mlx/backend/cpu/encoder.h"
#include "mixbit.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "activations.hpp"
#include "nodes.hpp"

namespace mx = mlx::core;

namespace {

using namespace mixbit;

namespace kernels {

using mixbit::Softmax;

// From values a of the sigmoid and the gradient b with respect to them.
struct SigmoidVjp {
  using Vjp = void;
  static constexpr const char* name = "MixbitSigmoidVjp";
  static constexpr bool by_row = false;

  INLINE void row(const float* a, const float* b, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = b[i] * (a[i] * (1.0f - a[i]));
  }
};

struct Sigmoid {
  using Vjp = SigmoidVjp;
  static constexpr const char* name = "MixbitSigmoid";
  static constexpr bool by_row = false;

  INLINE void row(const float* a, const float*, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = sigmoid(a[i]);
  }
};

}  // namespace kernels

// An operation as a node of MLX's graph, on one or two arrays of one shape.
template <typename Op>
class Node : public mx::UnaryPrimitive {
 public:
  using UnaryPrimitive::UnaryPrimitive;

  static mx::array make(std::vector<mx::array> inputs, mx::Stream stream) {
    mx::Shape shape = inputs[0].shape();
    return mx::array(std::move(shape), mx::float32, std::make_shared<Node>(stream), std::move(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const mx::array &first = inputs.front(), &last = inputs.back();
    if (first.flags().row_contiguous && mx::is_donatable(first, out)) {
      out.copy_shared_buffer(first);
    } else if (last.flags().row_contiguous && mx::is_donatable(last, out)) {
      out.copy_shared_buffer(last);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long size = out.size(), columns = Op::by_row ? out.shape().back() : 1;
    mx::cpu::get_command_encoder(stream()).dispatch([=] {
      const float *a = parts->front().floats(), *b = parts->back().floats();
      mixbit::split(size / columns, size, worth_it, [&](long from, long until) {
        const long offset = from * columns, count = (until - from) * columns;
        each_row<Op>(a + offset, b + offset, to + offset, Op::by_row ? until - from : 1, Op::by_row ? columns : count);
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                             const std::vector<int>&, const std::vector<mx::array>& outputs) override {
    if constexpr (std::is_void_v<typename Op::Vjp>) {
      throw std::runtime_error(std::string(name()) + ": second derivatives are not there");
    } else {
      return {Node<typename Op::Vjp>::make({outputs[0], cotangents[0]}, stream())};
    }
  }

  const char* name() const override { return Op::name; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }
};

// silu(gate) * up as one node.
class Gated : public mx::UnaryPrimitive {
 public:
  using UnaryPrimitive::UnaryPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    if (inputs[1].flags().row_contiguous && mx::is_donatable(inputs[1], out)) {
      out.copy_shared_buffer(inputs[1]);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long size = out.size();
    mx::cpu::get_command_encoder(stream()).dispatch([=] {
      const float *gate = parts->front().floats(), *up = parts->back().floats();
      mixbit::split(size, size, worth_it, [&](long from, long until) {
        each_row<GatedBy<Silu>>(gate + from, up + from, to + from, 1, until - from);
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  // The operations, and their order, that MLX's own differentiation of gate * sigmoid(gate) * up consists of.
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    const mx::array &gate = primals[0], &up = primals[1], &dy = cotangents[0];
    const mx::array share = Node<kernels::Sigmoid>::make({gate}, stream());
    std::vector<mx::array> found;
    for (int index : argnums) {
      if (index == 1) {
        found.push_back(mx::multiply(dy, mx::multiply(gate, share, stream()), stream()));
        continue;
      }
      const mx::array inner = mx::multiply(dy, up, stream());
      const mx::array through = Node<kernels::SigmoidVjp>::make({share, mx::multiply(inner, gate, stream())}, stream());
      found.push_back(mx::add(mx::multiply(inner, share, stream()), through, stream()));
    }
    return found;
  }

  const char* name() const override { return "MixbitGated"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }
};

}  // namespace

extern "C" void* mixbit_gated(const void* gate, const void* up, const void* stream) {
  const auto &a = *static_cast<const mx::array*>(gate), &b = *static_cast<const mx::array*>(up);
  if (!ours(a) || !ours(b) || a.shape() != b.shape()) return nullptr;
  const auto& on = *static_cast<const mx::Stream*>(stream);
  try {
    return new mx::array(mx::Shape(a.shape()), mx::float32, std::make_shared<Gated>(on), {a, b});
  } catch (const std::exception&) {
    return nullptr;
  }
}

mx::array mx::softmax(const mx::array& a, const std::vector<int>& axes, bool precise, mx::StreamOrDevice s) {
  if (ours(a) && axes.size() == 1 && (axes[0] == -1 || axes[0] == static_cast<int>(a.ndim()) - 1)) {
    return Node<kernels::Softmax>::make({a}, mx::to_stream(s));
  }
  using Type = mx::array(const mx::array&, const std::vector<int>&, bool, mx::StreamOrDevice);
  static Type* const function = stock<Type>(&mx::softmax);
  return function(a, axes, precise, s);
}

mx::array mx::sigmoid(const mx::array& a, mx::StreamOrDevice s) {
  if (ours(a)) return Node<kernels::Sigmoid>::make({a}, mx::to_stream(s));
  static auto* const function = stock(&mx::sigmoid);
  return function(a, s);
}
