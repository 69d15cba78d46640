// Attention behind a cache in three nodes: queries, keys and values lie side by side in a product's rows; keys are normed, rotated
// and written into the cache, values are written into it, and queries are normed, rotated and attend to it.
//
// Each step is that of the single nodes, with the same result. A token that is generated meets three nodes here in place of some
// fifteen, whose making and scheduling takes longer than their work.

#include <memory>

#include "attention.hpp"
#include "mixbit.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
#include "nodes.hpp"
#include "rope.hpp"

namespace {

using namespace mixbit;

// A cache that gets some new positions: the stored array itself if nobody else holds it, else a copy.
class Updated {
 public:
  Updated(const mx::array& stored, mx::array& out) {
    if (stored.flags().row_contiguous && mx::is_donatable(stored, out)) {
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
  // `norm` is the weight of the norm or null; so are `frequencies`, where the base's powers serve.
  Placing(const mixbit_attention& settings, const float* norm, const float* frequencies, long tokens)
      : s_(settings),
        norm_(norm),
        angles_(s_.rotates ? angles_of({s_.rope_dims, s_.rope_traditional != 0, s_.rope_base, s_.rope_scale, s_.rope_offset},
                                       frequencies, tokens)
                           : nullptr) {}

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

  static constexpr int most_dims = 512;

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

// Inputs that may be absent, by their places; -1 where they are.
struct Optional {
  int norm = -1, frequencies = -1;
};

const float* floats_at(std::vector<Settled>& inputs, int place) { return place < 0 ? nullptr : inputs[place].floats(); }

long width_of(const mixbit_attention& s) { return (s.heads + 2l * s.kv_heads) * s.dims; }

enum class Kind { keys, values };

// Writes the new keys or values into their cache. Inputs: the products [1, tokens, width], the cache [1, kv heads, capacity,
// dims], and what `Optional` names.
class CacheUpdate : public mx::UnaryPrimitive {
 public:
  CacheUpdate(mx::Stream stream, const mixbit_attention& settings, Kind kind, Optional optional)
      : UnaryPrimitive(stream), settings_(settings), kind_(kind), optional_(optional) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const Updated cache(inputs[1], out);
    auto parts = std::make_shared<std::vector<Settled>>();
    for (size_t i = 0; i < inputs.size(); ++i) parts->emplace_back(inputs[i == 1 ? 0 : i]);
    const long tokens = inputs[0].shape(1), capacity = out.shape(2);
    const bool halves = out.dtype() == mx::float16;
    mx::cpu::get_command_encoder(stream()).dispatch([=, s = settings_, kind = kind_, optional = optional_] {
      const float* products = parts->front().floats();
      const long dims = s.dims, first = (s.heads + (kind == Kind::keys ? 0l : s.kv_heads)) * dims, width = width_of(s);
      void* const stored = cache.values();
      const Placing place(s, floats_at(*parts, optional.norm), floats_at(*parts, optional.frequencies), tokens);
      split(tokens, tokens * s.kv_heads * dims, worth_it, [&](long from, long until) {
        for (long t = from; t < until; ++t) {
          for (long h = 0; h < s.kv_heads; ++h) {
            const float* x = products + t * width + first + h * dims;
            const long at = (h * capacity + s.at + t) * dims;
            float wide[Placing::most_dims];
            float* const to = halves ? wide : static_cast<float*>(stored) + at;
            if (kind == Kind::keys) {
              place(x, t, to);
            } else {
              std::copy_n(x, dims, to);
            }
            if (halves) std::copy_n(wide, dims, static_cast<mx::float16_t*>(stored) + at);
          }
        }
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }
  const char* name() const override { return "MixbitCacheUpdate"; }

 private:
  const mixbit_attention settings_;
  const Kind kind_;
  const Optional optional_;
};

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

// Keys and values [kv heads, capacity, dims] in float16 as floats [2, kv heads, keys, dims], in memory of the calling thread.
const float* widened(const mixbit_attention& s, const uint8_t* keys, const uint8_t* values, long capacity) {
  static thread_local std::vector<float> wide;
  const long count = static_cast<long>(s.keys) * s.dims;
  wide.resize(std::max<size_t>(wide.size(), 2 * s.kv_heads * count));
  float* const to = wide.data();
  spread(2 * s.kv_heads, 2 * s.kv_heads * count, worth_it, [&](long task) {
    const auto* from = reinterpret_cast<const uint16_t*>(task < s.kv_heads ? keys : values);
    mixbit::run<Widen>(from + task % s.kv_heads * capacity * s.dims, to + task * count, count);
  });
  return to;
}

// Lets queries attend to a cache. Inputs: the products, keys, values, and what `Optional` names. Output: [1, tokens, heads * dims].
class CachedAttention : public mx::UnaryPrimitive {
 public:
  CachedAttention(mx::Stream stream, const mixbit_attention& settings, Optional optional)
      : UnaryPrimitive(stream), settings_(settings), optional_(optional) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto parts = std::make_shared<std::vector<Settled>>(inputs.begin(), inputs.end());
    float* to = out.data<float>();
    const long capacity = inputs[1].shape(2);
    const int tokens = inputs[0].shape(1);
    const bool halves = inputs[1].dtype() == mx::float16;
    mx::cpu::get_command_encoder(stream()).dispatch([=, s = settings_, optional = optional_] {
      const float* products = parts->front().floats();
      const Placing place(s, floats_at(*parts, optional.norm), floats_at(*parts, optional.frequencies), tokens);
      const long dims = s.dims, heads = s.heads, width = width_of(s);
      std::vector<float> queries(tokens * heads * dims);
      split(tokens, tokens * heads * dims, worth_it, [&](long from, long until) {
        for (long t = from; t < until; ++t) {
          for (long h = 0; h < heads; ++h) place(products + t * width + h * dims, t, &queries[(t * heads + h) * dims]);
        }
      });
      const Heads q(queries.data(), {1, s.heads, tokens, s.dims}, {0, dims, heads * dims, 1});
      const mx::Shape shape = {1, s.kv_heads, s.keys, s.dims};
      const float* keys = nullptr;
      if (halves) keys = widened(s, (*parts)[1].values(), (*parts)[2].values(), capacity);
      const float* const values = halves ? keys + long{s.kv_heads} * s.keys * dims : (*parts)[2].floats();
      if (!halves) keys = (*parts)[1].floats();
      const mx::Strides strides = {0, (halves ? s.keys : capacity) * dims, dims, 1};
      const Heads k(keys, shape, strides), v(values, shape, strides);
      const Problem problem(s.scale, s.causal != 0, q, k, v);
      spread(heads * problem.blocks(), problem.work(), worth_it, [&](long task) {
        attend(problem, q, k, v, 0, task / problem.blocks(), task % problem.blocks() * block, to);
      });
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override { throw std::runtime_error("this is a CPU build"); }
  const char* name() const override { return "MixbitCachedAttention"; }

 private:
  const mixbit_attention settings_;
  const Optional optional_;
};

const mx::array* array_at(const void* pointer) { return static_cast<const mx::array*>(pointer); }

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

}  // namespace

extern "C" int mixbit_attend(const struct mixbit_attention* settings, const struct mixbit_attention_arrays* arrays,
                             const void* stream, void** results) {
  const mixbit_attention& s = *settings;
  const mx::array &products = *array_at(arrays->products), &keys = *array_at(arrays->keys), &values = *array_at(arrays->values);
  const bool sizes = s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.dims > 0 && s.dims <= Placing::most_dims;
  if (!sizes || !ours(products) || products.ndim() != 3 || products.shape(0) != 1 ||
      products.shape(2) != (s.heads + 2 * s.kv_heads) * s.dims || !holds(keys, s, products.shape(1)) ||
      !holds(values, s, products.shape(1)) || s.keys < products.shape(1) ||
      keys.dtype() != values.dtype()) {
    return 0;
  }
  const bool rotation = !s.rotates || (s.rope_dims > 0 && s.rope_dims % 2 == 0 && s.rope_dims <= s.dims &&
                                       fits(arrays->frequencies, s.rope_dims / 2));
  if (!rotation || !fits(arrays->query_norm, s.dims) || !fits(arrays->key_norm, s.dims)) return 0;
  try {
    const auto& on = *static_cast<const mx::Stream*>(stream);
    // Adds what is there to a node's inputs.
    const auto optional = [&](const void* norm, std::vector<mx::array>& inputs) {
      const auto add = [&](const void* pointer) {
        if (!pointer) return -1;
        inputs.push_back(*array_at(pointer));
        return static_cast<int>(inputs.size()) - 1;
      };
      const int norm_at = add(norm);
      return Optional{norm_at, add(arrays->frequencies)};
    };
    const auto updated = [&](const mx::array& cache, Kind kind, const void* norm) {
      std::vector<mx::array> inputs = {products, cache};
      const Optional more = kind == Kind::keys ? optional(norm, inputs) : Optional{};
      return mx::array(cache.shape(), cache.dtype(), std::make_shared<CacheUpdate>(on, s, kind, more), std::move(inputs));
    };
    const mx::array new_keys = updated(keys, Kind::keys, arrays->key_norm), new_values = updated(values, Kind::values, nullptr);
    std::vector<mx::array> inputs = {products, new_keys, new_values};
    const Optional more = optional(arrays->query_norm, inputs);
    mx::Shape shape = {1, products.shape(1), s.heads * s.dims};
    results[0] = new mx::array(std::move(shape), mx::float32, std::make_shared<CachedAttention>(on, s, more), std::move(inputs));
    results[1] = new mx::array(new_keys);
    results[2] = new mx::array(new_values);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}
