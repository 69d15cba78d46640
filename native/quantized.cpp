// Products of float32 activations with stored matrices, in place of MLX's, whose CPU build decodes a value at a time on one
// thread: with quantized ones by MLX's own function, and with float16 and bfloat16 ones, which MLX would first widen whole.
//
// Activations, sums and results are float32, whatever type the scales have. Other cases go to MLX's own function. Of
// transformations there is only the vjp with respect to the activations.

#include <memory>
#include <optional>

#include "interleaved.hpp"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "stored.hpp"

namespace {

using namespace mixbit;

// x times one or several matrices, one beside the other. Inputs: x, and those that the plan names.
class Products : public mx::UnaryPrimitive {
 public:
  Products(mx::Stream stream, Plan plan) : UnaryPrimitive(stream), plan_(std::make_shared<Plan>(std::move(plan))) {}

  static mx::array make(std::vector<mx::array> inputs, Plan plan, mx::Stream stream) {
    auto node = std::make_shared<Products>(stream, std::move(plan));
    mx::Shape shape = node->output_shapes(inputs)[0];
    return output_of(std::move(shape), std::move(node), std::move(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    mx::cpu::get_command_encoder(stream()).dispatch(work(inputs, out));
  }

  std::function<void()> work(const std::vector<mx::array>& inputs, mx::array& out) const {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long count = inputs[0].size() / plan_->columns();
    return [=, plan = plan_] { multiply(best_kernels(), plan->pass(*parts), parts->front().floats(), count, to); };
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    if (argnums.size() != 1 || argnums[0] != 0 || plan_->matrices.size() > 1 || plan_->matrices[0].form.interleaved) {
      throw std::runtime_error(std::string(name()) + ": only one stored matrix's gradient with respect to the activations is there");
    }
    return {mx::matmul(cotangents[0], decoded(plan_->matrices[0], primals), stream())};
  }

  const char* name() const override { return "MixbitProduct"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return *plan_ == *static_cast<const Products&>(other).plan_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.back() = plan_->rows();
    return {shape};
  }

 private:
  mx::array decoded(const Stored& stored, const std::vector<mx::array>& primals) {
    const mx::array& weight = primals[stored.weight];
    if (stored.scales < 0) return mx::astype(weight, mx::float32, stream());
    // MLX decodes to the scales' type.
    const auto widened = [&](int index) { return mx::astype(primals[index], mx::float32, stream()); };
    const bool affine = stored.biases >= 0;
    return mx::dequantize(weight, affine ? widened(stored.scales) : primals[stored.scales],
                          affine ? std::optional(widened(stored.biases)) : std::nullopt, stored.form.group, stored.form.bits,
                          stored.mode, std::nullopt, mx::float32, stream());
  }

  std::shared_ptr<const Plan> plan_;
};

// Bits and group size of a mode that are meant where none are given.
std::pair<int, int> sizes_of(const std::string& mode, std::optional<int> group, std::optional<int> bits) {
  const bool affine = mode == "affine";
  return {group.value_or(affine ? 64 : mode == "nvfp4" ? 16 : 32), bits.value_or(mode == "mxfp8" ? 8 : 4)};
}

}  // namespace

mx::array mx::quantized_matmul(const array& x, const array& w, const array& scales, const std::optional<array>& biases,
                               bool transpose, std::optional<int> group_size, std::optional<int> bits,
                               const std::string& mode, StreamOrDevice s) {
  const auto [group, width] = sizes_of(mode, group_size, bits);
  if (transpose) {
    const auto form = quantized_form(w, scales, biases, group, width, mode);
    if (form && ours(x) && x.shape().back() == form->columns) {
      std::vector<array> inputs = {x, w, scales};
      if (biases) inputs.push_back(*biases);
      return Products::make(std::move(inputs), {{{*form, mode, 1, 2, biases ? 3 : -1, -1}}}, to_stream(s));
    }
  }
  static auto* const function = stock(&mx::quantized_matmul);
  return function(x, w, scales, biases, transpose, group_size, bits, mode, s);
}

extern "C" long mixbit_stripe_bytes(const struct mixbit_matrix* matrix) {
  const Matrix stored = matrix_of(*matrix);
  return can_interleave(best_kernels(), stored) ? stripe_bytes(stored) : 0;
}

extern "C" int mixbit_interleave(const struct mixbit_matrix* matrix, unsigned char* to) {
  try {
    interleave(matrix_of(*matrix), to);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

extern "C" void* mixbit_interleaved_rows(const struct mixbit_linear* stored, const void* indices) {
  try {
    Matrix matrix = interleaved_form(*stored);
    const mx::array &bytes = *array_at(stored->weight), &wanted = *array_at(indices);
    if (static_cast<long>(bytes.nbytes()) < interleaved_bytes(matrix) || wanted.dtype() != mx::uint32) return nullptr;
    matrix.codes = interleaved_start(const_cast<uint8_t*>(bytes.data<uint8_t>()));
    Settled numbers(wanted);
    mx::Shape shape = wanted.shape();
    shape.push_back(matrix.columns);
    auto result = std::make_unique<mx::array>(mx::allocator::malloc(wanted.size() * matrix.columns * sizeof(float)), shape, mx::float32);
    const auto* rows = reinterpret_cast<const uint32_t*>(numbers.values());
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (rows[i] >= matrix.rows) return nullptr;
      interleaved_row(matrix, rows[i], result->data<float>() + i * matrix.columns);
    }
    return result.release();
  } catch (const std::exception&) {
    return nullptr;
  }
}

extern "C" void* mixbit_products(const void* x, const struct mixbit_linear* linears, int count, const void* addend, const void* stream) {
  try {
    if (!ours(*array_at(x))) return nullptr;
    std::vector<mx::array> inputs = {*array_at(x)};
    auto plan = plan_of(linears, count, inputs[0].shape().back(), Activation::none, false, inputs);
    if (!plan) return nullptr;
    if (addend) {
      const mx::array& sum = *array_at(addend);
      mx::Shape shape = inputs[0].shape();
      shape.back() = plan->rows();
      if (count != 1 || !ours(sum) || sum.shape() != shape) return nullptr;
      plan->addend = append(inputs, addend);
    }
    return new mx::array(Products::make(std::move(inputs), std::move(*plan), *static_cast<const mx::Stream*>(stream)));
  } catch (const std::exception&) {
    return nullptr;
  }
}
