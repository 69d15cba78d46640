// Loops over rows of float32 values, compiled for the processors that there may be, and what our nodes do to a row.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace mixbit {

// Loops below are for the compiler to vectorize, inside each of the functions compiled for some processor.
#define INLINE static inline __attribute__((always_inline))

constexpr int lanes = 16;

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

// By MLX's formula, which is good to the last places of small values too.
INLINE float sigmoid(float x) {
  const float size = x < 0.0f ? -x : x;
  const float less = 1.0f / (1.0f + exponential(size > 88.0f ? 89.0f : size));
  return x < 0.0f ? less : 1.0f - less;
}

// 1 / sqrt(mean(x^2) + eps).
INLINE float inverse_rms(const float* x, long count, float eps) {
  return 1.0f / std::sqrt(reduce(count, 0.0f, plus, [&](long i) { return x[i] * x[i]; }) / count + eps);
}

// RMS norm of rows, with a weight unless that is null.
struct Norm {
  INLINE void run(const float* x, const float* weight, const float*, float* out, long rows, long columns, float eps) {
    for (long row = 0; row < rows; ++row, x += columns, out += columns) {
      const float r = inverse_rms(x, columns, eps);
      if (weight) {
#pragma GCC ivdep
        for (long i = 0; i < columns; ++i) out[i] = x[i] * r * weight[i];
      } else {
#pragma GCC ivdep
        for (long i = 0; i < columns; ++i) out[i] = x[i] * r;
      }
    }
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

}  // namespace mixbit
