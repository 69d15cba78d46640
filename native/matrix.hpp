// A stored matrix of weights, and products with it that never hold it whole as float32.
//
// matrix_kernels.inc has the kernels, which are compiled once for each kind of processor; products.hpp says what is made of
// their products.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "mixbit.h"

namespace mixbit {

// What a value of a matrix is stored as. `affine` codes are unsigned integers of `bits` bits; the value is
// scale * code + bias.
enum class Code { affine = MIXBIT_AFFINE, fp4 = MIXBIT_FP4, fp8 = MIXBIT_FP8, half = MIXBIT_HALF, brain = MIXBIT_BRAIN };
// What the scales (and biases) of the groups are stored as.
enum class Scale {
  none = MIXBIT_NO_SCALE,
  float32 = MIXBIT_FLOAT32_SCALE,
  half = MIXBIT_HALF_SCALE,
  brain = MIXBIT_BRAIN_SCALE,
  e8m0 = MIXBIT_E8M0_SCALE,
  e4m3 = MIXBIT_E4M3_SCALE,
};

struct Matrix {
  const uint8_t* codes;  // [rows, columns * bits / 8] bytes
  const uint8_t* scales;  // [rows, columns / group]; null without scales
  const uint8_t* biases;  // of the scales' type; null but for affine codes
  long rows, columns;
  int bits, group;
  Code code;
  Scale scale;
  bool interleaved = false;  // `codes` is all of it, as interleaved.hpp says

  long row_bytes() const { return columns * bits / 8; }
  long groups() const { return columns / group; }
  // Bytes of the scales of a row.
  long scale_bytes() const {
    return groups() * (scale == Scale::float32 ? 4 : scale == Scale::half || scale == Scale::brain ? 2 : 1);
  }
};

// Bytes beyond a row's codes, scales and biases that kernels may read, and values beyond the sums of x.
constexpr long overread = 64;
// Columns are whole numbers of these.
constexpr long column_step = 16;

// 32 values of x as integers of three bytes, for kernels that multiply those: see integers.inc.
struct alignas(16) XBlock {
  union {  // by four columns
    int8_t bytes[8][3][4];  // first the lowest
    int16_t words[8][2][2][2];  // first the lower two bytes; of columns 0 and 2, then of 1 and 3
  };
  int32_t low_start, high_start;  // what sums with the lower two bytes and with the highest start from: codes have a center
  float scale;
  float sum;  // of the values
};

// Functions compiled for one kind of processor.
struct MatrixKernels {
  // out[row - from] = the product of row `row` of the matrix with x [columns]. `sums` has the sums of x by group, for
  // matrices with biases, and zeros after them.
  void (*product)(const Matrix& matrix, long from, long to, const float* x, const float* sums, float* out);
  // The values of rows `from` to `to`, row-major.
  void (*decode)(const Matrix& matrix, long from, long to, float* out);
  // out[m * step + row] = the product of row `row` of `a` [rows, columns] with row m of x [count, columns].
  void (*dense)(const float* a, long rows, long columns, const float* x, long count, float* out, long step);
  // Sums of x [columns] by group.
  void (*group_sums)(const float* x, long columns, int group, float* sums);
  // Rows are [count, dims] of float32, or of float16 with `halves`; dims are whole numbers of `column_step`.
  // out[h * step + row] = the product of a row with q [heads, dims].
  void (*row_products)(const float* q, long heads, const uint8_t* rows, bool halves, long count, long dims, float* out, long step);
  // out[h * out_step ..] = the sum of weights[h * step + row] times each row.
  void (*row_sums)(const float* weights, long step, long heads, const uint8_t* rows, bool halves, long count, long dims, float* out,
                   long out_step);
  // `split`, `interleaved` and `decode_interleaved` are for interleaved matrices (interleaved.hpp), and null where the processor multiplies floats as fast.
  // Takes x [columns] apart into integers for codes of `bits` bits. False where these are not as exact as float32.
  bool (*split)(const float* x, long columns, int bits, XBlock* out);
  // out[m * step + row - from] = the product of row `row` of the matrix, from a whole stripe on, with row m of x [count].
  void (*interleaved)(const Matrix& matrix, long from, long to, const XBlock* x, long count, float* out, long step);
  // The values of whole stripes, transposed: out[column * step + row - from]. Null where integers are faster however many
  // rows x has.
  void (*decode_interleaved)(const Matrix& matrix, long from, long to, float* out, long step);
};

extern const MatrixKernels matrix_plain;
#if defined(__x86_64__)
extern const MatrixKernels matrix_avx2, matrix_avx512, matrix_vnni;
#endif

}  // namespace mixbit
