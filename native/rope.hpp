// Rotary position embedding: angles, and the rotation of one row.
#pragma once

#include <memory>
#include <vector>

#include "rows.hpp"

namespace mixbit {

// What the angles are made from.
struct Angles {
  std::vector<float> inverse;
  float scale;
  int offset;
  long tokens;
  bool operator==(const Angles&) const = default;
};

// Of each token its cosines and then its sines.
using Table = std::shared_ptr<const std::vector<float>>;

// Rotates pairs by their angles, and copies what is past them. Pairs are side by side, or half a row apart.
struct Rotate {
  INLINE void run(const float* x, const float* cosines, float* out, long pairs, long dims, bool beside, float direction) {
    const float* sines = cosines + pairs;
    if (beside) {
#pragma GCC ivdep
      for (long i = 0; i < pairs; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1], sine = direction * sines[i];
        out[2 * i] = a * cosines[i] - b * sine;
        out[2 * i + 1] = a * sine + b * cosines[i];
      }
    } else {
#pragma GCC ivdep
      for (long i = 0; i < pairs; ++i) {
        const float a = x[i], b = x[pairs + i], sine = direction * sines[i];
        out[i] = a * cosines[i] - b * sine;
        out[pairs + i] = a * sine + b * cosines[i];
      }
    }
    for (long i = 2 * pairs; i < dims; ++i) out[i] = x[i];
  }
};

// How positions become angles; `offset` is the first token's position.
struct RopeSettings {
  int dims;
  bool traditional;
  float base, scale;
  int offset;
  bool operator==(const RopeSettings&) const = default;
};

// The angles of `tokens` positions; `frequencies`, unless null, are what angles are divided by in place of the base's powers.
Table angles_of(const RopeSettings& settings, const float* frequencies, long tokens);

}  // namespace mixbit
