// What our own nodes of MLX's graph share: the values of their inputs, being computed as they are made, and the way to MLX's own
// function of a name that we define.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/common/utils.h"
#include "rows.hpp"
#include "threads.hpp"

namespace mixbit {

namespace mx = mlx::core;

// Values from which waking another thread pays.
constexpr long worth_it = 1l << 16;

inline bool ours(const mx::array& a) { return a.dtype() == mx::float32 && a.ndim() > 0 && a.size() > 0; }

// The values of an array in row-major order.
class Settled {
 public:
  // `array` has its memory, if not its values yet.
  explicit Settled(const mx::array& array)
      : data_(array.data<uint8_t>()), count_(array.size()), bytes_(array.itemsize()), in_order_(array.flags().row_contiguous) {
    if (in_order_) return;
    shape_ = array.shape();
    strides_ = array.strides();
  }

  // Once the values are there: makes a copy where they are in another order.
  const uint8_t* values() {
    if (in_order_) return data_;
    copy_.resize(count_ * bytes_);
    uint8_t* to = copy_.data();
    const long columns = shape_.back(), step = strides_.back() * bytes_;
    for (long row = 0; row < count_ / columns; ++row) {
      const uint8_t* from = data_ + start(row) * bytes_;
      for (long i = 0; i < columns; ++i, from += step, to += bytes_) std::memcpy(to, from, bytes_);
    }
    return copy_.data();
  }
  const float* floats() { return reinterpret_cast<const float*>(values()); }

 private:
  // Where a row along the last axis begins.
  long start(long row) const {
    long place = 0;
    for (int axis = static_cast<int>(shape_.size()) - 2; axis >= 0; --axis) {
      place += row % shape_[axis] * strides_[axis];
      row /= shape_[axis];
    }
    return place;
  }

  const uint8_t* data_;
  long count_, bytes_;
  bool in_order_;
  mx::Shape shape_;
  mx::Strides strides_;
  std::vector<uint8_t> copy_;
};

// The rows of an array [batch, heads, tokens, dims], read with the strides that it has.
class Heads {
 public:
  // `array` has its memory, if not its values yet.
  explicit Heads(const mx::array& array)
      : data_(array.data<float>()), shape_(array.shape()), strides_(array.strides()) {}
  Heads(const float* data, mx::Shape shape, mx::Strides strides)
      : data_(data), shape_(std::move(shape)), strides_(std::move(strides)) {}

  const mx::Shape& shape() const { return shape_; }

  // Once the values are there: makes a copy where those of a row are not side by side.
  void settle() {
    if ((strides_[3] == 1 || shape_[3] == 1) && step() >= shape_[3]) return;
    copy_.resize(static_cast<size_t>(shape_[0]) * shape_[1] * shape_[2] * shape_[3]);
    float* out = copy_.data();
    for (long b = 0; b < shape_[0]; ++b)
      for (long h = 0; h < shape_[1]; ++h)
        for (long t = 0; t < shape_[2]; ++t)
          for (long d = 0; d < shape_[3]; ++d)
            *out++ = data_[b * strides_[0] + h * strides_[1] + t * strides_[2] + d * strides_[3]];
    data_ = copy_.data();
    strides_ = {long{shape_[1]} * shape_[2] * shape_[3], long{shape_[2]} * shape_[3], shape_[3], 1};
  }

  const float* at(long batch, long head) const { return data_ + batch * strides_[0] + head * strides_[1]; }
  // From a row to the next.
  long step() const { return shape_[2] == 1 ? shape_[3] : strides_[2]; }

 private:
  const float* data_;
  mx::Shape shape_;
  mx::Strides strides_;
  std::vector<float> copy_;
};

// Memory for an array [batch, heads, tokens, dims] in the order [batch, tokens, heads, dims]: heads beside heads are rows of
// the matrix that a linear layer gave or gets.
inline float* allocate_tokens_first(mx::array& out) {
  const long heads = out.shape(1), tokens = out.shape(2), dims = out.shape(3);
  mx::Strides strides = {tokens * heads * dims, dims, heads * dims, 1};
  auto [size, by_row, by_column] = mx::check_contiguity(out.shape(), strides);
  mx::array::Flags flags{};
  flags.contiguous = true;
  flags.row_contiguous = by_row;
  flags.col_contiguous = by_column;
  out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), std::move(strides), flags);
  return out.data<float>();
}

// True while nodes of this thread are computed as they are made.
inline bool& is_eager() {
  static thread_local bool eager = false;
  return eager;
}

// True if a node with these inputs is to be computed as it is made.
inline bool is_computed_eagerly(const std::vector<mx::array>& inputs) {
  const auto has_values = [](const mx::array& input) { return input.is_available() && !input.is_tracer(); };
  return is_eager() && std::all_of(inputs.begin(), inputs.end(), has_values);
}

// An array for values that are computed as it is made.
inline mx::array without_graph(mx::Shape shape, mx::Dtype type) {
  mx::array array(std::move(shape), type, nullptr, {});
  array.set_status(mx::array::Status::available);
  return array;
}

// The float32 output of a node, whose `work(inputs, out)` gives it its memory and returns what computes its values.
template <typename Node>
mx::array output_of(mx::Shape shape, std::shared_ptr<Node> node, std::vector<mx::array> inputs) {
  if (!is_computed_eagerly(inputs)) return mx::array(std::move(shape), mx::float32, std::move(node), std::move(inputs));
  mx::array out = without_graph(std::move(shape), mx::float32);
  node->work(inputs, out)();
  return out;
}

// MLX's own function of that name and type.
template <typename Function>
Function* stock(Function* function) {
  static void* const library = dlopen("libmlx.so", RTLD_LAZY | RTLD_NOLOAD);
  Dl_info info;
  if (library && dladdr(reinterpret_cast<void*>(function), &info) && info.dli_sname) {
    if (void* found = dlsym(library, info.dli_sname)) return reinterpret_cast<Function*>(found);
  }
  throw std::runtime_error("libmlx.so lacks a function that this library stands in for");
}

}  // namespace mixbit
