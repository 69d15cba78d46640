// Activations of rows of float32 values.
#pragma once

#include "mixbit.h"
#include "rows.hpp"

namespace mixbit {

enum class Activation {
  none = MIXBIT_NO_ACTIVATION,
  silu = MIXBIT_SILU,
  gelu = MIXBIT_GELU,
  gelu_tanh = MIXBIT_GELU_TANH,
  relu2 = MIXBIT_RELU2,
};

struct Silu {
  INLINE float of(float x) { return x * sigmoid(x); }
};

struct Gelu {
  INLINE float of(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }
};

// GELU by its approximation with tanh; (1 + tanh(y)) / 2 is sigmoid(2 y).
struct GeluTanh {
  INLINE float of(float x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }
};

struct Relu2 {
  INLINE float of(float x) { return x > 0.0f ? x * x : 0.0f; }
};

// f(a) * b.
template <typename F>
struct GatedBy {
  INLINE void row(const float* a, const float* b, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = F::of(a[i]) * b[i];
  }
};

// f(a).
template <typename F>
struct Applied {
  INLINE void row(const float* a, const float*, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = F::of(a[i]);
  }
};

// Replaces values by f(value), times those of `factors` unless that is null.
template <typename F>
void activate_by(float* values, const float* factors, long count) {
  if (factors) {
    each_row<GatedBy<F>>(values, factors, values, 1, count);
  } else {
    each_row<Applied<F>>(values, values, values, 1, count);
  }
}

inline void activate(Activation activation, float* values, const float* factors, long count) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::silu:
      return activate_by<Silu>(values, factors, count);
    case Activation::gelu:
      return activate_by<Gelu>(values, factors, count);
    case Activation::gelu_tanh:
      return activate_by<GeluTanh>(values, factors, count);
    case Activation::relu2:
      return activate_by<Relu2>(values, factors, count);
  }
}

}  // namespace mixbit
