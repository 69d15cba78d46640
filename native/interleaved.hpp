// Affine matrices in the order in which a processor with wide registers reads them.
//
// A stripe is sixteen rows. By groups of columns it has their scales, sixteen side by side, their biases, and by 32 columns
// their codes: words of 32 bits, one for each row, side by side. Codes are fields of the words' bytes, byte b of field i being
// column 4 i + b. Codes of 3, 5 and 6 bits are in two fields, the lower bits in the first.
#pragma once

#include "matrix.hpp"

namespace mixbit {

// Rows of a stripe.
constexpr long stripe_rows = MIXBIT_STRIPE_ROWS;
// Columns of a block of x and of codes.
constexpr long block = 32;

// Bits of the first field of a code.
static constexpr int wide_bits(int bits) { return bits == 8 ? 8 : bits >= 4 ? 4 : 2; }

static inline long scale_size(const Matrix& matrix) { return matrix.scale == Scale::float32 ? 4 : 2; }
static inline long stripe_bytes(const Matrix& matrix) {
  return matrix.groups() * 2 * stripe_rows * scale_size(matrix) + matrix.columns / block * stripe_rows * 4 * matrix.bits;
}
static inline long stripes(const Matrix& matrix) { return (matrix.rows + stripe_rows - 1) / stripe_rows; }
// Bytes of an interleaved matrix that can begin anywhere.
static inline long interleaved_bytes(const Matrix& matrix) { return stripes(matrix) * stripe_bytes(matrix) + MIXBIT_ALIGNMENT; }
// Where it begins, in memory of that size.
template <typename Byte>
static inline Byte* interleaved_start(Byte* memory) {
  return reinterpret_cast<Byte*>((reinterpret_cast<uintptr_t>(memory) + MIXBIT_ALIGNMENT - 1) / MIXBIT_ALIGNMENT * MIXBIT_ALIGNMENT);
}

// True if the kernels take a matrix of these sizes as interleaved.
bool can_interleave(const MatrixKernels& kernels, const Matrix& matrix);
// Writes a stored matrix to `to`, on our threads.
void interleave(const Matrix& stored, uint8_t* to);
// The values of a row of an interleaved matrix.
void interleaved_row(const Matrix& matrix, long row, float* out);

}  // namespace mixbit
