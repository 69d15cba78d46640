// What our own nodes of MLX's graph share: loops over rows, compiled for the processors that there may be, and the way to
// MLX's own function of a name that we define.
#pragma once

#include <dlfcn.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/common/utils.h"
#include "threads.hpp"

namespace mixbit {

namespace mx = mlx::core;

// Loops below are for the compiler to vectorize, inside each of the functions compiled for some processor.
#define INLINE static inline __attribute__((always_inline))

constexpr int lanes = 16;
// Values from which waking another thread pays.
constexpr long worth_it = 1l << 16;

// exp(x) for x up to 89, which gives infinity, within two units in the last place; 0 below -88. The polynomial is that of
// Cephes' expf.
INLINE float exponential(float x) {
  x = x < -88.0f ? -88.0f : x;
  // x = n ln 2 + r. Adding 1.5 * 2^23 leaves no bits for a fraction, and n in the lowest ones. ln 2 is in two parts, the
  // first so short that its product with n is exact.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n by its exponent's bits, all of them 0 for n = -127.
  return p * std::bit_cast<float>((std::bit_cast<int32_t>(shifted) - 0x4b400000 + 127) << 23);
}

// Combines values 0 .. count, each lane its own, then the lanes.
template <typename Combine, typename Value>
INLINE float reduce(long count, float start, Combine combine, Value value) {
  float found[lanes];
  for (float& x : found) x = start;
  long i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int lane = 0; lane < lanes; ++lane) found[lane] = combine(found[lane], value(i + lane));
  }
  for (int lane = 0; i + lane < count; ++lane) found[lane] = combine(found[lane], value(i + lane));
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) found[lane] = combine(found[lane], found[lane + half]);
  }
  return found[0];
}

INLINE float larger(float a, float b) { return b > a ? b : a; }
INLINE float plus(float a, float b) { return a + b; }

// What is done to a row. `out` may be `a` or `b`.

// From probabilities a and the gradient b with respect to them.
struct SoftmaxVjp {
  using Vjp = void;
  static constexpr const char* name = "MixbitSoftmaxVjp";
  static constexpr bool by_row = true;

  INLINE void row(const float* a, const float* b, float* out, long count) {
    const float mean = reduce(count, 0.0f, plus, [&](long i) { return a[i] * b[i]; });
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = a[i] * (b[i] - mean);
  }
};

struct Softmax {
  using Vjp = SoftmaxVjp;
  static constexpr const char* name = "MixbitSoftmax";
  static constexpr bool by_row = true;

  INLINE void row(const float* a, const float*, float* out, long count) {
    const float most = reduce(count, -std::numeric_limits<float>::infinity(), larger, [&](long i) { return a[i]; });
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = exponential(a[i] - most);
    const float factor = 1.0f / reduce(count, 0.0f, plus, [&](long i) { return out[i]; });
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] *= factor;
  }
};

// The same for each processor that there may be.
#if defined(__x86_64__)
template <typename Op, typename... Args>
__attribute__((target("avx512f,fma"))) void avx512(Args... args) {
  Op::run(args...);
}
template <typename Op, typename... Args>
__attribute__((target("avx2,fma"))) void avx2(Args... args) {
  Op::run(args...);
}
#endif
template <typename Op, typename... Args>
void plain(Args... args) {
  Op::run(args...);
}

template <typename Op, typename... Args>
auto best() -> void (*)(Args...) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512f")) return avx512<Op, Args...>;
    if (__builtin_cpu_supports("avx2")) return avx2<Op, Args...>;
  }
#endif
  return plain<Op, Args...>;
}

// Op::run, compiled for this processor.
template <typename Op, typename... Args>
void run(Args... args) {
  static void (*const function)(Args...) = best<Op, Args...>();
  function(args...);
}

// Op::row for some rows, one after the other.
template <typename Op>
struct EachRow {
  INLINE void run(const float* a, const float* b, float* out, long rows, long columns) {
    for (long i = 0; i < rows * columns; i += columns) Op::row(a + i, b + i, out + i, columns);
  }
};

template <typename Op>
void each_row(const float* a, const float* b, float* out, long rows, long columns) {
  run<EachRow<Op>>(a, b, out, rows, columns);
}

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
