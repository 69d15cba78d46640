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

template <typename Integer>
uint64_t integer_at(const uint8_t* from) {
  Integer value;
  memcpy(&value, from, sizeof value);
  return value;
}

// The integer of so many bytes, in registers: to fill a word in memory part by part and read it whole takes three times as long.
template <int bytes>
uint64_t bytes_at(const uint8_t* from) {
  if constexpr (bytes == 8) return integer_at<uint64_t>(from);
  if constexpr (bytes == 2 || bytes == 3) return integer_at<uint16_t>(from) | (bytes == 3 ? uint64_t{from[2]} << 16 : 0);
  const uint64_t low = integer_at<uint32_t>(from);
  if constexpr (bytes == 5) return low | uint64_t{from[4]} << 32;
  if constexpr (bytes == 6) return low | integer_at<uint16_t>(from + 4) << 32;
  return low;
}

// Eight codes as bytes, from the lowest of `codes` on.
template <int bits>
uint64_t as_bytes(uint64_t codes) {
  constexpr uint64_t code = (1u << bits) - 1;
  codes = (codes & ((1ull << 4 * bits) - 1)) | (codes >> 4 * bits) << 32;
  codes = (codes & (code << bits | code) * 0x100000001) | (codes >> 2 * bits & (code << bits | code) * 0x100000001) << 16;
  return (codes & code * 0x1000100010001) | (codes >> bits & code * 0x1000100010001) << 8;
}

// A word of four codes for each row.
struct Lanes {
  uint32_t at[stripe_rows];
};

// Adds the fields of `width` bits, from bit `down` of the codes' bytes on, of a block, and returns where the next go.
template <int width>
uint8_t* put_fields(const Lanes* codes, int down, uint8_t* to) {
  constexpr uint32_t mask = ((1u << width) - 1) * 0x1010101;
  for (int word = 0; word < width; ++word, to += sizeof(Lanes)) {
    Lanes all{};
    for (int i = 0; i < 8 / width; ++i) {
      const Lanes& from = codes[word * (8 / width) + i];
      for (int r = 0; r < stripe_rows; ++r) all.at[r] |= (from.at[r] >> down & mask) << i * width;
    }
    memcpy(to, &all, sizeof all);
  }
  return to;
}

// Writes a stripe. The last row stands for those after it.
template <int bits>
void put_stripe(const Matrix& matrix, long stripe, uint8_t* to) {
  constexpr int wide = wide_bits(bits), extra = bits - wide;
  const long size = scale_size(matrix);
  const auto row = [&](long r) { return std::min(stripe * stripe_rows + r, matrix.rows - 1); };
  for (long column = 0; column < matrix.columns; column += block) {
    if (column % matrix.group == 0) {
      const long at = column / matrix.group;
      for (const uint8_t* values : {matrix.scales, matrix.biases}) {
        for (long r = 0; r < stripe_rows; ++r, to += size) memcpy(to, values + (row(r) * matrix.groups() + at) * size, size);
      }
    }
    Lanes codes[8];
    for (long r = 0; r < stripe_rows; ++r) {
      const uint8_t* from = matrix.codes + row(r) * matrix.row_bytes() + column * bits / 8;
      for (int i = 0; i < 8; i += 2, from += bits) {
        const uint64_t eight = as_bytes<bits>(bytes_at<bits>(from));
        codes[i].at[r] = static_cast<uint32_t>(eight);
        codes[i + 1].at[r] = static_cast<uint32_t>(eight >> 32);
      }
    }
    to = put_fields<wide>(codes, 0, to);
    if constexpr (extra > 0) to = put_fields<extra>(codes, wide, to);
  }
}

void put_stripe(const Matrix& matrix, long stripe, uint8_t* to) {
  switch (matrix.bits) {
    case 2:
      return put_stripe<2>(matrix, stripe, to);
    case 3:
      return put_stripe<3>(matrix, stripe, to);
    case 4:
      return put_stripe<4>(matrix, stripe, to);
    case 5:
      return put_stripe<5>(matrix, stripe, to);
    case 6:
      return put_stripe<6>(matrix, stripe, to);
    default:
      return put_stripe<8>(matrix, stripe, to);
  }
}

}  // namespace

bool can_interleave(const MatrixKernels& kernels, const Matrix& matrix) {
  const bool sizes = matrix.columns % block == 0 && matrix.group % block == 0;
  return kernels.interleaved && matrix.code == Code::affine && sizes;
}

void interleave(const Matrix& stored, uint8_t* to) {
  const long bytes = stripe_bytes(stored);
  spread(stripes(stored), stripes(stored) * bytes, worth_it, [&](long stripe) { put_stripe(stored, stripe, to + stripe * bytes); });
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
