// Interleaved matrices: made from stored ones, and their rows as floats.

#include "interleaved.hpp"

#include "matrix_values.inc"
#include "threads.hpp"

namespace mixbit {

namespace {

// Bytes of codes from which waking another thread pays.
constexpr long worth_it = 1l << 16;

float scale_at(const uint8_t* from, Scale type, long index) {
  uint16_t bits;
  memcpy(&bits, from + index * 2, sizeof bits);
  if (type == Scale::half) return half_to_float(bits);
  if (type == Scale::brain) return bits_to_float(static_cast<uint32_t>(bits) << 16);
  float value;
  memcpy(&value, from + index * 4, sizeof value);
  return value;
}

// The field of `width` bits that column `column` of a block has in its words, of which a row's are `stripe_rows` apart.
int field_of(const uint8_t* words, int width, long column) {
  const long field = column / 4;
  const uint8_t byte = words[field * width / 8 * stripe_rows * 4 + column % 4];
  return byte >> (field * width % 8) & ((1 << width) - 1);
}

}  // namespace

bool can_interleave(const MatrixKernels& kernels, const Matrix& matrix) {
  return kernels.interleave && matrix.code == Code::affine && matrix.columns % block == 0 && matrix.group % block == 0;
}

void interleave(const MatrixKernels& kernels, const Matrix& stored, uint8_t* to) {
  const long bytes = stripe_bytes(stored);
  spread(stripes(stored), stripes(stored) * bytes, worth_it,
         [&](long stripe) { kernels.interleave(stored, stripe, to + stripe * bytes); });
}

void interleaved_row(const Matrix& matrix, long row, float* out) {
  const int wide = wide_bits(matrix.bits), extra = matrix.bits - wide;
  const long lane = row % stripe_rows, scale_bytes = stripe_rows * scale_size(matrix);
  const uint8_t* from = matrix.codes + row / stripe_rows * stripe_bytes(matrix);
  for (long group = 0; group < matrix.groups(); ++group) {
    const float scale = scale_at(from, matrix.scale, lane), bias = scale_at(from + scale_bytes, matrix.scale, lane);
    from += 2 * scale_bytes;
    for (long part = 0; part < matrix.group / block; ++part, from += matrix.bits * stripe_rows * 4) {
      const uint8_t* words = from + lane * 4;
      for (long column = 0; column < block; ++column) {
        int code = field_of(words, wide, column);
        if (extra) code |= field_of(words + wide * stripe_rows * 4, extra, column) << wide;
        *out++ = scale * code + bias;
      }
    }
  }
}

}  // namespace mixbit
