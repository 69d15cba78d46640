// RMS norm of rows of float32 values, in place of MLX's, whose CPU build makes it and its gradient of a dozen operations, each
// a pass over the memory on one thread.
//
// Rows are summed in the same way whoever does them: no result depends on the number of threads. Other dtypes go to MLX's own
// function. Of transformations there is only the vjp.

#include <cmath>
#include <memory>
#include <optional>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "nodes.hpp"

namespace {

using namespace mixbit;

// r (g - x r^2 mean(g x)), where g is the gradient with respect to what the weight multiplies.
struct NormVjp {
  template <typename Gradient>
  INLINE void row(const float* x, Gradient g, float* out, long columns, float eps) {
    const float r = inverse_rms(x, columns, eps);
    const float along = r * r * (reduce(columns, 0.0f, plus, [&](long i) { return g(i) * x[i]; }) / columns);
#pragma GCC ivdep
    for (long i = 0; i < columns; ++i) out[i] = r * (g(i) - x[i] * along);
  }

  INLINE void run(const float* x, const float* weight, const float* dy, float* out, long rows, long columns, float eps) {
    for (long j = 0; j < rows; ++j, x += columns, dy += columns, out += columns) {
      if (weight) {
        row(x, [&](long i) { return dy[i] * weight[i]; }, out, columns, eps);
      } else {
        row(x, [&](long i) { return dy[i]; }, out, columns, eps);
      }
    }
  }
};

// Inputs: x, the weight if there is one, and for the gradient that with respect to the output.
class RmsNorm : public mx::UnaryPrimitive {
 public:
  RmsNorm(mx::Stream stream, float eps, bool weighted, bool gradient)
      : UnaryPrimitive(stream), eps_(eps), weighted_(weighted), gradient_(gradient) {}

  static mx::array make(std::vector<mx::array> inputs, float eps, bool weighted, bool gradient, mx::Stream stream) {
    mx::Shape shape = inputs[0].shape();
    return output_of(std::move(shape), std::make_shared<RmsNorm>(stream, eps, weighted, gradient), std::move(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    mx::cpu::get_command_encoder(stream()).dispatch(work(inputs, out));
  }

  std::function<void()> work(const std::vector<mx::array>& inputs, mx::array& out) const {
    if (inputs.front().flags().row_contiguous && mx::is_donatable(inputs.front(), out)) {
      out.copy_shared_buffer(inputs.front());
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long columns = out.shape().back(), rows = out.size() / columns;
    return [=, eps = eps_, weighted = weighted_, gradient = gradient_] {
      const float* x = parts->front().floats();
      const float* weight = weighted ? (*parts)[1].floats() : nullptr;
      const float* dy = gradient ? parts->back().floats() : x;
      split(rows, rows * columns, worth_it, [&](long from, long until) {
        const long offset = from * columns;
        const auto function = gradient ? run<NormVjp, const float*, const float*, const float*, float*, long, long, float>
                                       : run<Norm, const float*, const float*, const float*, float*, long, long, float>;
        function(x + offset, weight, dy + offset, to + offset, until - from, columns, eps);
      });
    };
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    if (gradient_) throw std::runtime_error("MixbitRmsNorm: second derivatives are not there");
    std::vector<mx::array> found;
    for (int index : argnums) {
      if (index == 0) {
        std::vector<mx::array> inputs = primals;
        inputs.push_back(cotangents[0]);
        found.push_back(make(std::move(inputs), eps_, weighted_, true, stream()));
      } else {
        std::vector<int> rows;
        for (int axis = 0; axis + 1 < static_cast<int>(primals[0].ndim()); ++axis) rows.push_back(axis);
        const mx::array plain = make({primals[0]}, eps_, false, false, stream());
        found.push_back(mx::sum(mx::multiply(cotangents[0], plain, stream()), rows, false, stream()));
      }
    }
    return found;
  }

  const char* name() const override { return "MixbitRmsNorm"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const RmsNorm&>(other);
    return eps_ == same.eps_ && weighted_ == same.weighted_ && gradient_ == same.gradient_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  float eps_;
  bool weighted_, gradient_;
};

}  // namespace

mx::array mx::fast::rms_norm(const array& x, const std::optional<array>& weight, float eps, StreamOrDevice s) {
  if (ours(x) && (!weight || (ours(*weight) && weight->ndim() == 1 && weight->shape(0) == x.shape().back()))) {
    std::vector<array> inputs = {x};
    if (weight) inputs.push_back(*weight);
    return RmsNorm::make(std::move(inputs), eps, weight.has_value(), false, to_stream(s));
  }
  static auto* const function = stock(&mx::fast::rms_norm);
  return function(x, weight, eps, s);
}
