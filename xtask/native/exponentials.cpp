// softmax and sigmoid of float32 values, in place of MLX's.
//
// MLX's CPU build for x86 knows no vectors: it takes one exponential at a time, every step of the polynomial a call of
// fmaf, on one thread, and spends half of a forward pass there. This library comes before libmlx.so in the loader's search
// order, and libmlx.so too looks these two functions up by name: attention gets this softmax without a change.
//
// Rows are split over the threads and never within, and are summed in sixteen lanes on every processor: no result depends
// on the number of threads. Other dtypes and axes go to MLX's own functions. Values that are not finite come out as there: a
// row with a NaN or +infinity in it, or of -infinity alone, is NaN throughout. Of transformations there is only the vjp.

#include <dlfcn.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "mlx/backend/common/unary.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "threads.hpp"

namespace mx = mlx::core;

namespace {

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
namespace kernels {

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

// From values a of the sigmoid and the gradient b with respect to them.
struct SigmoidVjp {
  using Vjp = void;
  static constexpr const char* name = "MixbitSigmoidVjp";
  static constexpr bool by_row = false;

  INLINE void row(const float* a, const float* b, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) out[i] = b[i] * (a[i] * (1.0f - a[i]));
  }
};

// By MLX's formula, which is good to the last places of small values too.
struct Sigmoid {
  using Vjp = SigmoidVjp;
  static constexpr const char* name = "MixbitSigmoid";
  static constexpr bool by_row = false;

  INLINE void row(const float* a, const float*, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) {
      const float size = a[i] < 0.0f ? -a[i] : a[i];
      const float less = 1.0f / (1.0f + exponential(size > 88.0f ? 89.0f : size));
      out[i] = a[i] < 0.0f ? less : 1.0f - less;
    }
  }
};

}  // namespace kernels

template <typename Op>
INLINE void each_row(const float* a, const float* b, float* out, long rows, long columns) {
  for (long i = 0; i < rows * columns; i += columns) Op::row(a + i, b + i, out + i, columns);
}

// The same for each processor that there may be.
#if defined(__x86_64__)
template <typename Op>
__attribute__((target("avx512f,fma"))) void avx512(const float* a, const float* b, float* out, long rows, long columns) {
  each_row<Op>(a, b, out, rows, columns);
}
template <typename Op>
__attribute__((target("avx2,fma"))) void avx2(const float* a, const float* b, float* out, long rows, long columns) {
  each_row<Op>(a, b, out, rows, columns);
}
#endif
template <typename Op>
void plain(const float* a, const float* b, float* out, long rows, long columns) {
  each_row<Op>(a, b, out, rows, columns);
}

using Kernel = void (*)(const float*, const float*, float*, long, long);

template <typename Op>
Kernel best() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512f")) return avx512<Op>;
    if (__builtin_cpu_supports("avx2")) return avx2<Op>;
  }
#endif
  return plain<Op>;
}

// An operation as a node of MLX's graph, on one or two row-contiguous arrays of one shape.
template <typename Op>
class Node : public mx::UnaryPrimitive {
 public:
  using UnaryPrimitive::UnaryPrimitive;

  static mx::array make(std::vector<mx::array> inputs, mx::Stream stream) {
    for (mx::array& input : inputs) input = mx::contiguous(input, false, stream);
    mx::Shape shape = inputs[0].shape();
    return mx::array(std::move(shape), mx::float32, std::make_shared<Node>(stream), std::move(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    static const Kernel kernel = best<Op>();
    const mx::array &first = inputs.front(), &last = inputs.back();
    if (mx::is_donatable(first, out)) {
      out.copy_shared_buffer(first);
    } else if (mx::is_donatable(last, out)) {
      out.copy_shared_buffer(last);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    const float *a = first.data<float>(), *b = last.data<float>();
    float* to = out.data<float>();
    const long size = out.size(), columns = Op::by_row ? out.shape().back() : 1;
    mx::cpu::get_command_encoder(stream()).dispatch([=] {
      mixbit::split(size / columns, size, worth_it, [&](long from, long until) {
        const long offset = from * columns, count = (until - from) * columns;
        kernel(a + offset, b + offset, to + offset, Op::by_row ? until - from : 1, Op::by_row ? columns : count);
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>&, const std::vector<mx::array>& cotangents,
                             const std::vector<int>&, const std::vector<mx::array>& outputs) override {
    if constexpr (std::is_void_v<typename Op::Vjp>) {
      throw std::runtime_error(std::string(name()) + ": second derivatives are not there");
    } else {
      return {Node<typename Op::Vjp>::make({outputs[0], cotangents[0]}, stream())};
    }
  }

  const char* name() const override { return Op::name; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }
};

bool ours(const mx::array& a) { return a.dtype() == mx::float32 && a.ndim() > 0 && a.size() > 0; }

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

}  // namespace

mx::array mx::softmax(const mx::array& a, const std::vector<int>& axes, bool precise, mx::StreamOrDevice s) {
  if (ours(a) && axes.size() == 1 && (axes[0] == -1 || axes[0] == static_cast<int>(a.ndim()) - 1)) {
    return Node<kernels::Softmax>::make({a}, mx::to_stream(s));
  }
  using Type = mx::array(const mx::array&, const std::vector<int>&, bool, mx::StreamOrDevice);
  static Type* const function = stock<Type>(&mx::softmax);
  return function(a, axes, precise, s);
}

mx::array mx::sigmoid(const mx::array& a, mx::StreamOrDevice s) {
  if (ours(a)) return Node<kernels::Sigmoid>::make({a}, mx::to_stream(s));
  static auto* const function = stock(&mx::sigmoid);
  return function(a, s);
}
