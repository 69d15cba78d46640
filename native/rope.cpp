// Rotary position embedding of float32 heads [batch, heads, tokens, dims], in place of MLX's, whose CPU build makes it of
// general operations and takes sines and cosines anew for every layer.
//
// Angles are MLX's: (offset + token) * scale over powers of the base, or over the given frequencies, in float32. Other shapes
// and dtypes, and offsets in an array, go to MLX's own function. Of transformations there is only the vjp.

#include <cmath>
#include <memory>
#include <mutex>
#include <optional>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "nodes.hpp"
#include "rope.hpp"

namespace mixbit {

namespace {

// The last tables are kept: layers share them.
Table table(const Angles& angles) {
  static std::mutex mutex;
  static std::vector<std::pair<Angles, Table>> kept;
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [of, values] : kept) {
    if (of == angles) return values;
  }
  const long pairs = angles.inverse.size();
  auto values = std::make_shared<std::vector<float>>(2 * pairs * angles.tokens);
  for (long token = 0; token < angles.tokens; ++token) {
    const float position = static_cast<float>(token + angles.offset) * angles.scale;
    float* row = values->data() + token * 2 * pairs;
    for (long i = 0; i < pairs; ++i) {
      row[i] = std::cos(position * angles.inverse[i]);
      row[pairs + i] = std::sin(position * angles.inverse[i]);
    }
  }
  if (kept.size() == 4) kept.erase(kept.begin());
  kept.emplace_back(angles, values);
  return values;
}

}  // namespace

Table angles_of(const RopeSettings& settings, const float* frequencies, long tokens) {
  const long pairs = settings.dims / 2;
  Angles angles{std::vector<float>(pairs), settings.scale, settings.offset, tokens};
  const float step = std::log(settings.base) / pairs;
  for (long i = 0; i < pairs; ++i) angles.inverse[i] = frequencies ? 1.0f / frequencies[i] : std::exp(-i * step);
  return table(angles);
}

}  // namespace mixbit

namespace {

using namespace mixbit;

// Inputs: x, and the frequencies if they are given. The gradient is turned back by the same angles.
class Rope : public mx::UnaryPrimitive {
 public:
  Rope(mx::Stream stream, RopeSettings settings, bool back) : UnaryPrimitive(stream), settings_(settings), back_(back) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    auto in = std::make_shared<Heads>(inputs[0]);
    const float* frequencies = inputs.size() > 1 ? inputs[1].data<float>() : nullptr;
    float* to = allocate_tokens_first(out);
    const long batch = out.shape(0), heads = out.shape(1), tokens = out.shape(2), dims = out.shape(3);
    mx::cpu::get_command_encoder(stream()).dispatch([=, settings = settings_, direction = back_ ? -1.0f : 1.0f] {
      in->settle();
      const long pairs = settings.dims / 2;
      const Table values = angles_of(settings, frequencies, tokens);
      split(batch * tokens, batch * tokens * heads * dims, worth_it, [&](long from, long until) {
        for (long i = from; i < until; ++i) {
          const long token = i % tokens;
          for (long head = 0; head < heads; ++head) {
            run<Rotate>(in->at(i / tokens, head) + token * in->step(), values->data() + token * 2 * pairs,
                        to + (i * heads + head) * dims, pairs, dims, settings.traditional, direction);
          }
        }
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    if (argnums.size() != 1 || argnums[0] != 0) throw std::runtime_error("MixbitRope: frequencies have no gradient here");
    std::vector<mx::array> inputs = primals;
    inputs[0] = cotangents[0];
    return {mx::array(primals[0].shape(), mx::float32, std::make_shared<Rope>(stream(), settings_, !back_), std::move(inputs))};
  }

  const char* name() const override { return "MixbitRope"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Rope&>(other);
    return settings_ == same.settings_ && back_ == same.back_;
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override { return {inputs[0].shape()}; }

 private:
  RopeSettings settings_;
  bool back_;
};

}  // namespace

mx::array mx::fast::rope(const array& x, int dims, bool traditional, std::optional<float> base, float scale, int offset,
                         const std::optional<array>& freqs, StreamOrDevice s) {
  const bool even = dims > 0 && dims % 2 == 0 && x.ndim() == 4 && dims <= x.shape(3);
  const bool angles = freqs ? ours(*freqs) && freqs->ndim() == 1 && freqs->shape(0) == dims / 2 : base.has_value();
  if (ours(x) && even && angles) {
    const RopeSettings settings{dims, traditional, base.value_or(1.0f), scale, offset};
    std::vector<array> inputs = {x};
    if (freqs) inputs.push_back(mx::contiguous(*freqs, false, s));
    return array(x.shape(), float32, std::make_shared<Rope>(to_stream(s), settings, false), std::move(inputs));
  }
  using Type = array(const array&, int, bool, std::optional<float>, float, int, const std::optional<array>&, StreamOrDevice);
  static Type* const function = stock<Type>(&mx::fast::rope);
  return function(x, dims, traditional, base, scale, offset, freqs, s);
}
