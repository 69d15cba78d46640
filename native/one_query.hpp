// Attention of one token. The query heads that share a head of keys read its keys and values once.
//
// A part of the keys gives, for each head, the largest score, the sum of the weights relative to it, and the sum of values by
// these weights; parts are then added up. Where parts end depends on nothing but the number of keys.
#pragma once

#include "products.hpp"

namespace mixbit {

// What one token's heads attend to.
struct OneQuery {
  float scale;
  long heads, kv_heads, keys, dims;
  long key_step, value_step;  // values from a head of keys, or of values, to the next
  bool halves;  // keys and values are float16

  // Query heads of a head of keys.
  long group() const { return heads / kv_heads; }
  // True if the kernels take heads of this size, and the largest product is the largest score.
  bool fits() const { return dims % column_step == 0 && scale >= 0.0f; }
};

// out [heads, dims] for q [heads, dims] and keys and values [kv heads, .., dims], on our threads.
void attend_one(const MatrixKernels& kernels, const OneQuery& query, const float* q, const uint8_t* keys, const uint8_t* values,
                float* out);

}  // namespace mixbit
