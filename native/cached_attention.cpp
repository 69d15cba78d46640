// Attention behind a cache as one node: a norm, the projections of queries, keys and values, the heads' norms and rotations, the
// cache's new positions, attention, the output's projection, and the sum with the residual stream.
//
// Each step is that of the single nodes, with the same result. A token that is generated meets one node here in place of some
// twenty, whose making and scheduling takes longer than their work.

#include <memory>

#include "attention.hpp"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "normed.hpp"
#include "rope.hpp"

namespace {

using namespace mixbit;

// A cache that gets some new positions: the stored array itself if that is given away, else a copy.
class Updated {
 public:
  Updated(const mx::array& stored, mx::array& out, bool given_away) {
    if (given_away) {
      out.copy_shared_buffer(stored);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
      old_ = std::make_shared<Settled>(stored);
    }
    values_ = out.data<void>();
    bytes_ = out.nbytes();
  }

  // Once the stored values are there.
  void* values() const {
    if (old_) std::memcpy(values_, old_->values(), bytes_);
    return values_;
  }

 private:
  std::shared_ptr<Settled> old_;
  void* values_;
  size_t bytes_;
};

// What a head of a token goes through: a norm unless `norms` is 0, then a rotation unless `rotates` is.
class Placing {
 public:
  // `norm` is the weight of the norm or null.
  Placing(const mixbit_attention& settings, const float* norm, const Table& angles) : s_(settings), norm_(norm), angles_(angles) {}

  void operator()(const float* x, long token, float* out) const {
    const long dims = s_.dims;
    if (s_.norms) {
      mixbit::run<Norm>(x, norm_, static_cast<const float*>(nullptr), out, 1l, dims, s_.norm_eps);
      if (!angles_) return;
      // A row is read before it is written.
      float normed[most_dims];
      std::copy_n(out, dims, normed);
      rotate(normed, token, out);
    } else if (angles_) {
      rotate(x, token, out);
    } else {
      std::copy_n(x, dims, out);
    }
  }

  static constexpr int most_dims = MIXBIT_MOST_HEAD_DIMS;

 private:
  void rotate(const float* x, long token, float* out) const {
    const float* cosines = angles_->data() + token * s_.rope_dims;
    mixbit::run<Rotate>(x, cosines, out, s_.rope_dims / 2l, long{s_.dims}, s_.rope_traditional != 0, 1.0f);
    if (s_.rope_factor == 1.0f) return;
    for (int i = 0; i < s_.rope_dims; ++i) out[i] *= s_.rope_factor;
  }

  const mixbit_attention& s_;
  const float* norm_;
  const Table angles_;
};

// What a node computes, and which of its inputs are what; -1 for none.
struct Parts {
  mixbit_attention settings;
  Before before;
  Plan inputs;
  std::optional<Plan> output;
  int query_norm, key_norm, frequencies;
  bool caches_are_given_away = false;

  long heads_width() const { return long{settings.heads} * settings.dims; }
  // Values of queries, keys and values of a token.
  long width() const { return (settings.heads + 2l * settings.kv_heads) * settings.dims; }
};

const float* floats_at(std::vector<Settled>& inputs, int place) { return place < 0 ? nullptr : inputs[place].floats(); }

// Writes rows of `products` [tokens, width] from column `first` on to a cache [kv heads, capacity, dims], each by way of
// place(x, token, out).
template <typename Place>
void write_to_cache(const mixbit_attention& s, const float* products, long width, long first, long tokens, void* cache, long capacity,
                    bool halves, Place place) {
  const long dims = s.dims;
  split(tokens, tokens * s.kv_heads * dims, worth_it, [&](long from, long until) {
    for (long t = from; t < until; ++t) {
      for (long h = 0; h < s.kv_heads; ++h) {
        const long at = (h * capacity + s.at + t) * dims;
        float wide[Placing::most_dims];
        float* const to = halves ? wide : static_cast<float*>(cache) + at;
        place(products + t * width + first + h * dims, t, to);
        if (halves) std::copy_n(wide, dims, static_cast<mx::float16_t*>(cache) + at);
      }
    }
  });
}

// Halves as floats, infinities and NaN too.
struct Widen {
  INLINE void run(const uint16_t* from, float* out, long count) {
#pragma GCC ivdep
    for (long i = 0; i < count; ++i) {
      const uint32_t bits = from[i], rest = (bits & 0x7fffu) << 13;
      const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
      const uint32_t magnitude = (bits & 0x7c00u) == 0x7c00u ? rest | 0x7f800000u : finite;
      out[i] = std::bit_cast<float>(magnitude | (bits & 0x8000u) << 16);
    }
  }
};

// Keys or values of the positions that are seen, [kv heads, keys, dims], and from one head to the next; widened where they are
// halves.
class Seen {
 public:
  Seen(const mixbit_attention& s, const void* cache, long capacity, bool halves) {
    const long count = static_cast<long>(s.keys) * s.dims;
    if (!halves) {
      data_ = static_cast<const float*>(cache);
      step_ = capacity * s.dims;
      return;
    }
    memory_ = unfilled(s.kv_heads * count);
    spread(s.kv_heads, s.kv_heads * count, worth_it, [&](long head) {
      mixbit::run<Widen>(static_cast<const uint16_t*>(cache) + head * capacity * s.dims, memory_.get() + head * count, count);
    });
    data_ = memory_.get();
    step_ = count;
  }

  Heads heads(const mixbit_attention& s) const { return {data_, {1, s.kv_heads, s.keys, s.dims}, {0, step_, s.dims, 1}}; }

 private:
  std::unique_ptr<float[]> memory_;
  const float* data_;
  long step_;
};

// Lets queries [tokens, heads * dims] attend to a cache [kv heads, capacity, dims]; out has their shape.
void attend_to_cache(const mixbit_attention& s, const float* queries, long tokens, const void* keys, const void* values, long capacity,
                     bool halves, float* out) {
  const long dims = s.dims, step = capacity * dims;
  const OneQuery one{s.scale, s.heads, s.kv_heads, s.keys, dims, step, step, halves};
  if (tokens == 1 && one.fits()) {
    attend_one(best_kernels(), one, queries, static_cast<const uint8_t*>(keys), static_cast<const uint8_t*>(values), out);
    return;
  }
  const Seen seen_keys(s, keys, capacity, halves), seen_values(s, values, capacity, halves);
  const Heads q(queries, {1, s.heads, static_cast<int>(tokens), s.dims}, {0, dims, s.heads * dims, 1});
  const Heads k = seen_keys.heads(s), v = seen_values.heads(s);
  attend_all(Problem(s.scale, s.causal != 0, q, k, v), q, k, v, out);
}

// Inputs: x, keys, values, and those that the parts name. Outputs: that of the output layer or of the heads, keys, values.
class CachedAttention : public mx::Primitive {
 public:
  CachedAttention(mx::Stream stream, Parts parts) : Primitive(stream), parts_(std::make_shared<const Parts>(std::move(parts))) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    mx::cpu::get_command_encoder(stream()).dispatch(work(inputs, outputs));
  }

  std::function<void()> work(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) const {
    const bool own = parts_->caches_are_given_away;
    const Updated keys(inputs[1], outputs[1], own), values(inputs[2], outputs[2], own);
    outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
    auto settled = std::make_shared<std::vector<Settled>>();
    // The caches' memory may be the outputs' by now.
    for (size_t i = 0; i < inputs.size(); ++i) settled->emplace_back(inputs[i == 1 || i == 2 ? 0 : i]);
    const long columns = inputs[0].shape().back(), tokens = inputs[0].shape(1), capacity = outputs[1].shape(2);
    const bool halves = outputs[1].dtype() == mx::float16;
    float* to = outputs[0].data<float>();
    return [=, parts = parts_] {
      const Normed x(parts->before, *settled, tokens, columns);
      const auto products = unfilled(tokens * parts->width());
      multiply(best_kernels(), parts->inputs.pass(*settled), x.values(), tokens, products.get());
      void *const stored_keys = keys.values(), *const stored_values = values.values();
      const auto queries = placed(*parts, *settled, products.get(), tokens, stored_keys, stored_values, capacity, halves);
      if (!parts->output) {
        attend_to_cache(parts->settings, queries.get(), tokens, stored_keys, stored_values, capacity, halves, to);
        return;
      }
      const auto heads = unfilled(tokens * parts->heads_width());
      attend_to_cache(parts->settings, queries.get(), tokens, stored_keys, stored_values, capacity, halves, heads.get());
      multiply(best_kernels(), parts->output->pass(*settled), heads.get(), tokens, to);
    };
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override { throw std::runtime_error("this is a CPU build"); }
  const char* name() const override { return "MixbitCachedAttention"; }

 private:
  // Writes keys and values to their caches, and returns the queries [tokens, heads * dims] at their positions.
  static std::unique_ptr<float[]> placed(const Parts& parts, std::vector<Settled>& inputs, const float* products, long tokens,
                                         void* keys, void* values, long capacity, bool halves) {
    const mixbit_attention& s = parts.settings;
    const RopeSettings rope{s.rope_dims, s.rope_traditional != 0, s.rope_base, s.rope_scale, s.rope_offset};
    const Table angles = s.rotates ? angles_of(rope, floats_at(inputs, parts.frequencies), tokens) : nullptr;
    const Placing place_query(s, floats_at(inputs, parts.query_norm), angles), place_key(s, floats_at(inputs, parts.key_norm), angles);
    const long dims = s.dims, width = parts.width(), first = parts.heads_width();
    write_to_cache(s, products, width, first, tokens, keys, capacity, halves, place_key);
    write_to_cache(s, products, width, first + s.kv_heads * dims, tokens, values, capacity, halves,
                   [&](const float* x, long, float* out) { std::copy_n(x, dims, out); });
    auto queries = unfilled(tokens * first);
    split(tokens, tokens * first, worth_it, [&](long from, long until) {
      for (long t = from; t < until; ++t) {
        for (long h = 0; h < s.heads; ++h) place_query(products + t * width + h * dims, t, queries.get() + (t * s.heads + h) * dims);
      }
    });
    return queries;
  }

  const std::shared_ptr<const Parts> parts_;
};

// True if `stored` is a cache that the settings describe, with room for `tokens` more.
bool holds(const mx::array& stored, const mixbit_attention& s, int tokens) {
  const bool floats = stored.dtype() == mx::float32 || stored.dtype() == mx::float16;
  return floats && stored.size() > 0 && stored.ndim() == 4 && stored.shape(0) == 1 && stored.shape(1) == s.kv_heads &&
         stored.shape(3) == s.dims && s.at >= 0 && s.at + tokens <= stored.shape(2) && s.keys <= stored.shape(2);
}

// True if `weight` is absent, or one value per dimension of a head.
bool fits(const void* weight, int dims) {
  return !weight || (ours(*array_at(weight)) && array_at(weight)->ndim() == 1 && array_at(weight)->shape(0) == dims);
}

// True if the sizes are those of heads, and the rotation is one of them.
bool fits(const mixbit_attention& s, const void* frequencies) {
  const bool sizes = s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.dims > 0 && s.dims <= Placing::most_dims;
  const bool rotation = !s.rotates || (s.rope_dims > 0 && s.rope_dims % 2 == 0 && s.rope_dims <= s.dims && fits(frequencies, s.rope_dims / 2));
  return sizes && rotation;
}

// What a node is made of; the arrays are appended to the inputs, which begin with x and the caches. Nothing where shapes or types
// are others.
std::optional<Parts> parts_of(const mixbit_attention& s, const struct mixbit_attention_parts& given, std::vector<mx::array>& inputs) {
  const mx::array &x = inputs[0], &keys = inputs[1], &values = inputs[2];
  if (!fits(s, given.frequencies) || !fits(given.query_norm, s.dims) || !fits(given.key_norm, s.dims) || !ours(x) || x.ndim() != 3 ||
      x.shape(0) != 1 || !holds(keys, s, x.shape(1)) || !holds(values, s, x.shape(1)) || s.keys < x.shape(1) ||
      keys.dtype() != values.dtype()) {
    return std::nullopt;
  }
  mx::Shape shape = x.shape();
  const auto before = before_of(given.norm, inputs);
  auto products = plan_of(given.inputs, given.count, shape.back(), Activation::none, false, inputs);
  if (!before || !products) return std::nullopt;
  Parts parts{s, *before, std::move(*products), std::nullopt, append(inputs, given.query_norm), append(inputs, given.key_norm),
              append(inputs, given.frequencies)};
  if (parts.inputs.rows() != parts.width()) return std::nullopt;
  if (!given.output) return given.addend ? std::nullopt : std::optional(std::move(parts));
  parts.output = plan_of(given.output, 1, parts.heads_width(), Activation::none, false, inputs);
  if (!parts.output) return std::nullopt;
  shape.back() = parts.output->rows();
  if (given.addend && (!ours(*array_at(given.addend)) || array_at(given.addend)->shape() != shape)) return std::nullopt;
  parts.output->addend = append(inputs, given.addend);
  return parts;
}

}  // namespace

extern "C" int mixbit_attend(const struct mixbit_attention* settings, const struct mixbit_attention_parts* given, const void* stream,
                             void** results) {
  try {
    const mx::array &x = *array_at(given->x), &keys = *array_at(given->keys), &values = *array_at(given->values);
    // With several outputs a node's inputs have several holders, so that this is seen before they get there.
    const auto is_given_away = [](const mx::array& cache) {
      return cache.is_available() && cache.flags().row_contiguous && cache.is_donatable();
    };
    const bool given_away = is_given_away(keys) && is_given_away(values);
    std::vector<mx::array> inputs = {x, keys, values};
    auto parts = parts_of(*settings, *given, inputs);
    if (!parts) return 0;
    parts->caches_are_given_away = given_away;
    const long width = parts->output ? parts->output->rows() : parts->heads_width();
    const mx::Shape shape = {1, x.shape(1), static_cast<int>(width)};
    auto node = std::make_shared<CachedAttention>(*static_cast<const mx::Stream*>(stream), std::move(*parts));
    std::vector<mx::array> outputs;
    if (is_computed_eagerly(inputs)) {
      outputs = {without_graph(shape, mx::float32), without_graph(keys.shape(), keys.dtype()), without_graph(values.shape(), values.dtype())};
      node->work(inputs, outputs)();
    } else {
      outputs = mx::array::make_arrays({shape, keys.shape(), values.shape()}, {mx::float32, keys.dtype(), values.dtype()},
                                       std::move(node), std::move(inputs));
    }
    for (int i = 0; i < 3; ++i) results[i] = new mx::array(outputs[i]);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}
