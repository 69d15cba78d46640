// Products of float32 activations with stored matrices, in place of MLX's, whose CPU build decodes a value at a time on one
// thread: with quantized ones by MLX's own function, and with float16 and bfloat16 ones, which MLX would first widen whole.
//
// Activations, sums and results are float32, whatever type the scales have. Other cases go to MLX's own function. Of
// transformations there is only the vjp with respect to the activations.

#include <memory>
#include <optional>

#include "matrix.hpp"
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

// Inputs: x, the matrix and, for quantized ones, its scales and biases.
class Product : public mx::UnaryPrimitive {
 public:
  Product(mx::Stream stream, Matrix form, std::string mode)
      : UnaryPrimitive(stream), form_(form), mode_(std::move(mode)) {}

  // `form` says everything but where the parts are.
  static mx::array make(std::vector<mx::array> inputs, const Matrix& form, std::string mode, mx::Stream stream) {
    mx::Shape shape = inputs[0].shape();
    shape.back() = form.rows;
    return mx::array(std::move(shape), mx::float32, std::make_shared<Product>(stream, form, std::move(mode)),
                     std::move(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long count = inputs[0].size() / form_.columns;
    mx::cpu::get_command_encoder(stream()).dispatch([=, matrix = form_]() mutable {
      matrix.codes = (*parts)[1].values();
      if (parts->size() > 2) matrix.scales = (*parts)[2].values();
      if (parts->size() > 3) matrix.biases = (*parts)[3].values();
      multiply(matrix, parts->front().floats(), count, to);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    if (argnums.size() != 1 || argnums[0] != 0) {
      throw std::runtime_error("MixbitProduct: only the gradient with respect to the activations is there");
    }
    return {mx::matmul(cotangents[0], decoded(primals), stream())};
  }

  const char* name() const override { return "MixbitProduct"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Product&>(other);
    return mode_ == same.mode_ && form_.group == same.form_.group && form_.bits == same.form_.bits &&
           form_.code == same.form_.code;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    mx::Shape shape = inputs[0].shape();
    shape.back() = form_.rows;
    return {shape};
  }

 private:
  mx::array decoded(const std::vector<mx::array>& primals) {
    if (primals.size() == 2) return mx::astype(primals[1], mx::float32, stream());
    const bool affine = primals.size() > 3;
    // MLX decodes to the scales' type.
    const auto part = [&](int index) { return affine ? mx::astype(primals[index], mx::float32, stream()) : primals[index]; };
    return mx::dequantize(primals[1], part(2), affine ? std::optional(part(3)) : std::nullopt, form_.group, form_.bits, mode_,
                          std::nullopt, mx::float32, stream());
  }

  Matrix form_;
  std::string mode_;
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
      return Product::make(std::move(inputs), *form, mode, to_stream(s));
    }
  }
  static auto* const function = stock(&mx::quantized_matmul);
  return function(x, w, scales, biases, transpose, group_size, bits, mode, s);
}

extern "C" void* mixbit_product_with_halves(const void* x, const void* w, const void* stream) {
  const auto& activations = *static_cast<const mx::array*>(x);
  const auto& weight = *static_cast<const mx::array*>(w);
  const auto type = scale_of(weight.dtype());
  if (weight.ndim() != 2 || !type || *type == Scale::float32 || !fits(activations, weight, weight.shape(1))) return nullptr;
  Matrix form{};
  form.rows = weight.shape(0);
  form.columns = weight.shape(1);
  form.bits = 16;
  form.code = *type == Scale::half ? Code::half : Code::brain;
  try {
    return new mx::array(Product::make({activations, weight}, form, "", *static_cast<const mx::Stream*>(stream)));
  } catch (const std::exception&) {
    return nullptr;
  }
}
