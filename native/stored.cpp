// Which arrays are matrices that the kernels take.

#include "stored.hpp"

#include <tuple>

#include "interleaved.hpp"

namespace mixbit {

namespace {

std::optional<Scale> scale_of(mx::Dtype type) {
  if (type == mx::float32) return Scale::float32;
  if (type == mx::float16) return Scale::half;
  if (type == mx::bfloat16) return Scale::brain;
  return std::nullopt;
}

// The form of a matrix of float16 or bfloat16, if the kernels take it.
std::optional<Matrix> halves_form(const mx::array& weight) {
  const auto type = scale_of(weight.dtype());
  if (weight.ndim() != 2 || weight.size() == 0 || !type || *type == Scale::float32 || weight.shape(1) % column_step != 0) {
    return std::nullopt;
  }
  Matrix form{};
  form.rows = weight.shape(0);
  form.columns = weight.shape(1);
  form.bits = 16;
  form.code = *type == Scale::half ? Code::half : Code::brain;
  return form;
}

std::optional<Matrix> form_of(const struct mixbit_linear& linear) {
  const mx::array& weight = *array_at(linear.weight);
  if (linear.interleaved) {
    const Matrix form = interleaved_form(linear);
    return static_cast<long>(weight.nbytes()) >= interleaved_bytes(form) ? std::optional(form) : std::nullopt;
  }
  if (!linear.scales) return halves_form(weight);
  const auto biases = linear.biases ? std::optional(*array_at(linear.biases)) : std::nullopt;
  return quantized_form(weight, *array_at(linear.scales), biases, linear.group, linear.bits, linear.mode);
}

// Appends a layer's arrays to the inputs; nothing if the kernels do not take them.
std::optional<Stored> stored_from(const struct mixbit_linear& linear, long columns, std::vector<mx::array>& inputs) {
  const auto form = form_of(linear);
  if (!form || form->columns != columns) return std::nullopt;
  if (linear.bias) {
    const mx::array& bias = *array_at(linear.bias);
    if (!ours(bias) || bias.ndim() != 1 || bias.shape(0) != form->rows) return std::nullopt;
  }
  const int weight = append(inputs, linear.weight), scales = append(inputs, linear.scales), biases = append(inputs, linear.biases);
  return Stored{*form, linear.scales ? linear.mode : "", weight, scales, biases, append(inputs, linear.bias)};
}

// The two halves of a matrix's rows; nothing where a half does not end with a stripe.
std::optional<std::vector<Stored>> halves_of(const Stored& both) {
  const long rows = both.form.rows / 2;
  if (both.form.rows % 2 != 0 || (both.form.interleaved && rows % stripe_rows != 0)) return std::nullopt;
  std::vector<Stored> halves(2, both);
  for (long i = 0; i < 2; ++i) {
    halves[i].form.rows = rows;
    halves[i].first_row = i * rows;
  }
  return halves;
}

}  // namespace

bool Stored::operator==(const Stored& other) const {
  const auto key = [](const Stored& s) {
    return std::tie(s.mode, s.form.rows, s.form.columns, s.form.bits, s.form.group, s.form.code, s.form.scale, s.form.interleaved,
                    s.weight, s.scales, s.biases, s.bias, s.first_row);
  };
  return key(*this) == key(other);
}

long Plan::rows() const {
  long rows = 0;
  for (const Stored& stored : matrices) rows += stored.form.rows;
  return gated ? rows / 2 : rows;
}

Pass Plan::pass(std::vector<Settled>& inputs) const {
  const auto from = [&](int index, long offset) { return index < 0 ? nullptr : inputs[index].values() + offset; };
  const auto floats = [&](int index, long offset) { return index < 0 ? nullptr : inputs[index].floats() + offset; };
  Pass pass{{}, floats(addend, 0), activation, gated};
  for (const Stored& stored : matrices) {
    Part part{stored.form, floats(stored.bias, stored.first_row)};
    Matrix& matrix = part.matrix;
    if (matrix.interleaved) {
      matrix.codes = interleaved_start(from(stored.weight, 0)) + stored.first_row / stripe_rows * stripe_bytes(matrix);
    } else {
      const long offset = stored.scales < 0 ? 0 : stored.first_row * matrix.scale_bytes();
      matrix.codes = from(stored.weight, stored.first_row * matrix.row_bytes());
      matrix.scales = from(stored.scales, offset);
      matrix.biases = from(stored.biases, offset);
    }
    pass.parts.push_back(part);
  }
  return pass;
}

int append(std::vector<mx::array>& inputs, const void* pointer) {
  if (!pointer) return -1;
  inputs.push_back(*array_at(pointer));
  return static_cast<int>(inputs.size()) - 1;
}

std::optional<Matrix> quantized_form(const mx::array& weight, const mx::array& scales, const std::optional<mx::array>& biases,
                                     int group, int bits, const std::string& mode) {
  if (weight.ndim() != 2 || weight.size() == 0 || weight.dtype() != mx::uint32 || scales.ndim() != 2) return std::nullopt;
  const long columns = static_cast<long>(scales.shape(1)) * group;
  if (columns % column_step != 0 || weight.shape(1) * 32l != columns * bits || scales.shape(0) != weight.shape(0)) {
    return std::nullopt;
  }
  Matrix form{};
  form.rows = weight.shape(0);
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

Matrix interleaved_form(const struct mixbit_linear& linear) {
  Matrix form{};
  form.rows = linear.rows;
  form.columns = linear.columns;
  form.bits = linear.bits;
  form.group = linear.group;
  form.code = Code::affine;
  form.scale = static_cast<Scale>(linear.scale);
  form.interleaved = true;
  return form;
}

std::optional<Plan> plan_of(const struct mixbit_linear* linears, int count, long columns, Activation activation, bool gated,
                            std::vector<mx::array>& inputs) {
  Plan plan{{}, activation, gated};
  for (int i = 0; i < count; ++i) {
    auto stored = stored_from(linears[i], columns, inputs);
    if (!stored) return std::nullopt;
    plan.matrices.push_back(std::move(*stored));
  }
  if (gated && count == 1) {
    auto halves = halves_of(plan.matrices[0]);
    if (!halves) return std::nullopt;
    plan.matrices = std::move(*halves);
  }
  if (gated && (plan.matrices.size() != 2 || plan.matrices[0].form.rows != plan.matrices[1].form.rows)) return std::nullopt;
  return plan;
}

}  // namespace mixbit
