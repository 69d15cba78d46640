// The RMS norm that a node begins with.
#pragma once

#include <memory>
#include <optional>

#include "stored.hpp"

namespace mixbit {

// Float32 values that are written before they are read.
inline std::unique_ptr<float[]> unfilled(long count) { return std::make_unique_for_overwrite<float[]>(count); }

// A norm of x [rows, columns], and which of the node's inputs is its weight; -1 for none.
struct Before {
  bool is_there = false;
  int weight = -1;
  float eps = 0;

  bool operator==(const Before&) const = default;
};

// The norm that `norm` describes, unless that is null; its weight is appended to the inputs, whose first is x. Nothing where the
// weight is of another kind.
inline std::optional<Before> before_of(const struct mixbit_norm* norm, std::vector<mx::array>& inputs) {
  if (!norm) return Before{};
  if (norm->weight) {
    const mx::array& weight = *array_at(norm->weight);
    if (!ours(weight) || weight.ndim() != 1 || weight.shape(0) != inputs[0].shape().back()) return std::nullopt;
  }
  return Before{true, append(inputs, norm->weight), norm->eps};
}

// x [rows, columns], which has its values, behind the norm.
class Normed {
 public:
  Normed(const Before& before, std::vector<Settled>& inputs, long rows, long columns) : values_(inputs[0].floats()) {
    if (!before.is_there) return;
    memory_ = unfilled(rows * columns);
    const float* weight = before.weight < 0 ? nullptr : inputs[before.weight].floats();
    split(rows, rows * columns, worth_it, [&](long from, long until) {
      const long offset = from * columns;
      run<Norm>(values_ + offset, weight, static_cast<const float*>(nullptr), memory_.get() + offset, until - from, columns,
                before.eps);
    });
    values_ = memory_.get();
  }

  const float* values() const { return values_; }

 private:
  const float* values_;
  std::unique_ptr<float[]> memory_;
};

}  // namespace mixbit
