// An MLP as one node: a norm, gate and up, what is made of them, down, and the sum with the residual stream.
//
// Each step is that of the single nodes. Where no gradient is wanted, what lies between need not outlive the node.

#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "normed.hpp"

namespace {

using namespace mixbit;

// Inputs: x, and those that norm and plans name.
class Mlp : public mx::UnaryPrimitive {
 public:
  Mlp(mx::Stream stream, const Before& before, Plan inner, Plan down)
      : UnaryPrimitive(stream), before_(before), plans_(std::make_shared<const Plans>(std::move(inner), std::move(down))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    mx::cpu::get_command_encoder(stream()).dispatch(work(inputs, out));
  }

  std::function<void()> work(const std::vector<mx::array>& inputs, mx::array& out) const {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long columns = inputs[0].shape().back(), count = inputs[0].size() / columns;
    return [=, before = before_, plans = plans_] {
      const Normed x(before, *parts, count, columns);
      const auto inner = unfilled(count * plans->first.rows());
      multiply(best_kernels(), plans->first.pass(*parts), x.values(), count, inner.get());
      multiply(best_kernels(), plans->second.pass(*parts), inner.get(), count, to);
    };
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }
  const char* name() const override { return "MixbitMlp"; }

 private:
  using Plans = std::pair<Plan, Plan>;
  const Before before_;
  const std::shared_ptr<const Plans> plans_;
};

}  // namespace

extern "C" void* mixbit_mlp(const void* x, const struct mixbit_norm* norm, const struct mixbit_mlp_layers* layers, const void* addend,
                            const void* stream) {
  try {
    if (!ours(*array_at(x))) return nullptr;
    std::vector<mx::array> inputs = {*array_at(x)};
    mx::Shape shape = inputs[0].shape();
    const auto before = before_of(norm, inputs);
    if (!before) return nullptr;
    auto inner = plan_of(layers->first, layers->count, shape.back(), static_cast<Activation>(layers->activation), layers->gated != 0, inputs);
    if (!inner) return nullptr;
    auto down = plan_of(&layers->down, 1, inner->rows(), Activation::none, false, inputs);
    if (!down) return nullptr;
    shape.back() = down->rows();
    if (addend) {
      if (!ours(*array_at(addend)) || array_at(addend)->shape() != shape) return nullptr;
      down->addend = append(inputs, addend);
    }
    auto node = std::make_shared<Mlp>(*static_cast<const mx::Stream*>(stream), *before, std::move(*inner), std::move(*down));
    return new mx::array(output_of(std::move(shape), std::move(node), std::move(inputs)));
  } catch (const std::exception&) {
    return nullptr;
  }
}
