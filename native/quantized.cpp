// Products of float32 activations with stored matrices, in place of MLX's, whose CPU build decodes a value at a time on one
// thread: with quantized ones by MLX's own function, and with float16 and bfloat16 ones, which MLX would first widen whole.
//
// Activations, sums and results are float32, whatever type the scales have. Other cases go to MLX's own function. Of
// transformations there is only the vjp with respect to the activations.

#include <limits>
#include <memory>
#include <optional>
#include <tuple>

#include "interleaved.hpp"
#include "products.hpp"
#include "mixbit.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "nodes.hpp"

namespace {

using namespace mixbit;

std::optional<Scale> scale_of(mx::Dtype type) {
  if (type == mx::float32) return Scale::float32;
  if (type == mx::float16) return Scale::half;
  if (type == mx::bfloat16) return Scale::brain;
  return std::nullopt;
}

// One of the matrices of a node, and which of the node's inputs are its parts.
struct Stored {
  Matrix form;  // everything but where the parts are
  std::string mode;
  int weight, scales, biases, bias;  // -1 where there is none

  bool operator==(const Stored& other) const {
    const auto key = [](const Stored& s) {
      return std::tie(s.mode, s.form.rows, s.form.columns, s.form.bits, s.form.group, s.form.code, s.form.scale, s.form.interleaved, s.weight,
                      s.scales, s.biases, s.bias);
    };
    return key(*this) == key(other);
  }
};

// The matrices of a node, and what it makes of the products.
struct Plan {
  std::vector<Stored> matrices;
  bool gated;
  int addend;  // input that is added; -1 for none

  bool operator==(const Plan&) const = default;

  // What is to be done with inputs that have their values.
  Pass pass(std::vector<Settled>& inputs) const {
    const auto bytes = [&](int index) { return index < 0 ? nullptr : inputs[index].values(); };
    const auto floats = [&](int index) { return index < 0 ? nullptr : inputs[index].floats(); };
    Pass pass{{}, floats(addend), gated};
    for (const Stored& stored : matrices) {
      Part part{stored.form, floats(stored.bias)};
      part.matrix.codes = bytes(stored.weight);
      if (stored.form.interleaved) part.matrix.codes = interleaved_start(part.matrix.codes);
      part.matrix.scales = bytes(stored.scales);
      part.matrix.biases = bytes(stored.biases);
      pass.parts.push_back(part);
    }
    return pass;
  }
};

// x times one or several matrices, one beside the other. Inputs: x, and those that the plan names.
class Products : public mx::UnaryPrimitive {
 public:
  Products(mx::Stream stream, Plan plan) : UnaryPrimitive(stream), plan_(std::make_shared<Plan>(std::move(plan))) {}

  static mx::array make(std::vector<mx::array> inputs, Plan plan, mx::Stream stream) {
    auto node = std::make_shared<Products>(stream, std::move(plan));
    mx::Shape shape = node->output_shapes(inputs)[0];
    return mx::array(std::move(shape), mx::float32, std::move(node), std::move(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long count = inputs[0].size() / plan_->matrices[0].form.columns;
    mx::cpu::get_command_encoder(stream()).dispatch(
        [=, plan = plan_] { multiply(best_kernels(), plan->pass(*parts), parts->front().floats(), count, to); });
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
    long rows = 0;
    for (const Stored& stored : plan_->matrices) rows += stored.form.rows;
    shape.back() = plan_->gated ? rows / 2 : rows;
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

// Sizes of x and of the matrix that the kernels take.
bool fits(const mx::array& x, const mx::array& w, long columns) {
  return ours(x) && w.ndim() == 2 && w.size() > 0 && x.shape().back() == columns && columns % column_step == 0;
}

// The form of a quantized matrix, if the kernels take it.
std::optional<Matrix> quantized_form(const mx::array& x, const mx::array& w, const mx::array& scales,
                                     const std::optional<mx::array>& biases, int group, int bits, const std::string& mode) {
  const long columns = static_cast<long>(scales.shape().back()) * group;
  if (!fits(x, w, columns) || w.dtype() != mx::uint32 || w.shape(1) * 32l != columns * bits ||
      scales.shape() != mx::Shape{w.shape(0), static_cast<int>(columns / group)}) {
    return std::nullopt;
  }
  Matrix form{};
  form.rows = w.shape(0);
  form.columns = columns;
  form.bits = bits;
  form.group = group;
  if (mode == "affine") {
    const auto scale = scale_of(scales.dtype());
    const bool sizes = (group == 32 || group == 64 || group == 128) && bits >= 2 && bits <= 8 && bits != 7;
    if (!sizes || !scale || !biases || biases->dtype() != scales.dtype() || biases->shape() != scales.shape()) {
      return std::nullopt;
    }
    form.code = Code::affine;
    form.scale = *scale;
    return form;
  }
  const bool mxfp4 = mode == "mxfp4" && bits == 4 && group == 32, mxfp8 = mode == "mxfp8" && bits == 8 && group == 32;
  const bool nvfp4 = mode == "nvfp4" && bits == 4 && group == 16;
  if (biases || scales.dtype() != mx::uint8 || !(mxfp4 || mxfp8 || nvfp4)) return std::nullopt;
  form.code = mxfp8 ? Code::fp8 : Code::fp4;
  form.scale = nvfp4 ? Scale::e4m3 : Scale::e8m0;
  return form;
}

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
    if (const auto form = quantized_form(x, w, scales, biases, group, width, mode)) {
      std::vector<array> inputs = {x, w, scales};
      if (biases) inputs.push_back(*biases);
      return Products::make(std::move(inputs), {{{*form, mode, 1, 2, biases ? 3 : -1, -1}}, false, -1}, to_stream(s));
    }
  }
  static auto* const function = stock(&mx::quantized_matmul);
  return function(x, w, scales, biases, transpose, group_size, bits, mode, s);
}

namespace {

// The form of a float matrix, if the kernels take it.
std::optional<Matrix> halves_form(const mx::array& x, const mx::array& w) {
  const auto type = scale_of(w.dtype());
  if (w.ndim() != 2 || !type || *type == Scale::float32 || !fits(x, w, w.shape(1))) return std::nullopt;
  Matrix form{};
  form.rows = w.shape(0);
  form.columns = w.shape(1);
  form.bits = 16;
  form.code = *type == Scale::half ? Code::half : Code::brain;
  return form;
}

const mx::array* array_at(const void* pointer) { return static_cast<const mx::array*>(pointer); }

// The form of an interleaved matrix.
Matrix interleaved_form(const struct mixbit_linear& given) {
  Matrix form{};
  form.rows = given.rows;
  form.columns = given.columns;
  form.bits = given.bits;
  form.group = given.group;
  form.code = Code::affine;
  form.scale = static_cast<Scale>(given.scale);
  form.interleaved = true;
  return form;
}

// Adds the arrays of `given` to the inputs; nothing if the kernels do not take them.
std::optional<Stored> stored_from(const struct mixbit_linear& given, std::vector<mx::array>& inputs) {
  const mx::array &x = inputs[0], &weight = *array_at(given.weight);
  const auto add = [&](const void* pointer) {
    if (!pointer) return -1;
    inputs.push_back(*array_at(pointer));
    return static_cast<int>(inputs.size()) - 1;
  };
  std::optional<Matrix> form;
  if (given.interleaved) {
    form = interleaved_form(given);
    if (!ours(x) || x.shape().back() != form->columns) return std::nullopt;
  } else if (given.scales) {
    const auto biases = given.biases ? std::optional(*array_at(given.biases)) : std::nullopt;
    form = quantized_form(x, weight, *array_at(given.scales), biases, given.group, given.bits, given.mode);
  } else {
    form = halves_form(x, weight);
  }
  if (!form) return std::nullopt;
  if (given.bias) {
    const mx::array& bias = *array_at(given.bias);
    if (!ours(bias) || bias.ndim() != 1 || bias.shape(0) != form->rows) return std::nullopt;
  }
  const int weight_at = add(given.weight), scales_at = add(given.scales), biases_at = add(given.biases);
  return Stored{*form, given.scales ? given.mode : "", weight_at, scales_at, biases_at, add(given.bias)};
}

}  // namespace

extern "C" void* mixbit_interleave(const struct mixbit_linear* stored) {
  try {
    const auto& scales = *array_at(stored->scales);
    const long columns = static_cast<long>(scales.shape().back()) * stored->group;
    const mx::array x = mx::zeros({1, static_cast<int>(columns)});
    const auto form = quantized_form(x, *array_at(stored->weight), scales, *array_at(stored->biases), stored->group, stored->bits, "affine");
    if (!form || !can_interleave(best_kernels(), *form)) return nullptr;
    Settled codes(*array_at(stored->weight)), factors(scales), biases(*array_at(stored->biases));
    Matrix matrix = *form;
    matrix.codes = codes.values();
    matrix.scales = factors.values();
    matrix.biases = biases.values();
    const long bytes = interleaved_bytes(matrix);
    if (bytes > std::numeric_limits<int>::max()) return nullptr;
    auto result = std::make_unique<mx::array>(mx::allocator::malloc(bytes), mx::Shape{static_cast<int>(bytes)}, mx::uint8);
    interleave(best_kernels(), matrix, interleaved_start(result->data<uint8_t>()));
    return result.release();
  } catch (const std::exception&) {
    return nullptr;
  }
}

extern "C" void* mixbit_interleaved_rows(const struct mixbit_linear* given, const void* indices) {
  try {
    Matrix matrix = interleaved_form(*given);
    matrix.codes = interleaved_start(const_cast<uint8_t*>(array_at(given->weight)->data<uint8_t>()));
    const mx::array& wanted = *array_at(indices);
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

extern "C" void* mixbit_products(const void* x, const struct mixbit_linear* linears, int count, int gated, const void* addend,
                                 const void* stream) {
  try {
    std::vector<mx::array> inputs = {*array_at(x)};
    Plan plan{{}, gated != 0, -1};
    for (int i = 0; i < count; ++i) {
      auto stored = stored_from(linears[i], inputs);
      if (!stored) return nullptr;
      plan.matrices.push_back(std::move(*stored));
    }
    const auto& matrices = plan.matrices;
    if (gated && (count != 2 || matrices[0].form.rows != matrices[1].form.rows)) return nullptr;
    if (addend) {
      const mx::array& sum = *array_at(addend);
      mx::Shape shape = inputs[0].shape();
      shape.back() = matrices[0].form.rows;
      if (gated || count != 1 || !ours(sum) || sum.shape() != shape) return nullptr;
      plan.addend = inputs.size();
      inputs.push_back(sum);
    }
    return new mx::array(Products::make(std::move(inputs), std::move(plan), *static_cast<const mx::Stream*>(stream)));
  } catch (const std::exception&) {
    return nullptr;
  }
}
