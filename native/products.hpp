// Products of some rows of activations with one or several stored matrices, split over our threads.
#pragma once

#include <vector>

#include "activations.hpp"
#include "matrix.hpp"
#include "mixbit.h"

namespace mixbit {

// Kernels by name ("plain", "avx2", "avx512", "vnni"); null where there is none of that name or the processor cannot run them.
const MatrixKernels* matrix_kernels(const char* name);

// A matrix that is described in C.
inline Matrix matrix_of(const struct mixbit_matrix& matrix) {
  return {matrix.codes, matrix.scales, matrix.biases, matrix.rows, matrix.columns, matrix.bits, matrix.group,
          static_cast<Code>(matrix.code), static_cast<Scale>(matrix.scale)};
}

// A matrix of those that x is multiplied with in one pass.
struct Part {
  Matrix matrix;
  const float* bias;  // [rows], added to the products; or null
};

// Products of x with one or several matrices of as many columns, and what is made of them.
struct Pass {
  std::vector<Part> parts;
  const float* addend;  // [count, rows of all parts], added to the products; or null
  Activation activation = Activation::none;  // of the products
  // Of two parts with as many rows: activation(products with the first) * products with the second.
  bool gated = false;

  long columns() const { return parts[0].matrix.columns; }
  // Values that a row of x gives.
  long rows() const {
    long rows = 0;
    for (const Part& part : parts) rows += part.matrix.rows;
    return gated ? rows / 2 : rows;
  }
};

// out [count, pass.rows()] = x [count, columns] times the transposed matrices, one beside the other, on our threads.
void multiply(const MatrixKernels& kernels, const Pass& pass, const float* x, long count, float* out);
// The best kernels that this processor has.
const MatrixKernels& best_kernels();

}  // namespace mixbit
