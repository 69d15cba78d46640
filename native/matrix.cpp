// Products with stored matrices: the kernels for this processor, split over our threads.

#include "matrix.hpp"

#include <string.h>

#include <vector>

#include "threads.hpp"

extern "C" void scipy_cblas_sgemm(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                                  int);

namespace mixbit {

namespace {

enum { RowMajor = 101, NoTrans = 111, Trans = 112 };

// Multiplications from which waking another thread pays.
constexpr long worth_it = 1l << 16;
// Rows of x from which OpenBLAS is faster on decoded rows than the kernel for few.
constexpr long many = 12;
// Decoded values that stay in a thread's cache.
constexpr long cached = 1l << 16;
// Rows of a matrix that a thread takes at a time.
constexpr long row_step = 16;

// A matrix that kernels may read beyond the end of: its last rows are copied.
class Readable {
 public:
  explicit Readable(const Matrix& matrix) : matrix_(matrix), last_(matrix), split_(matrix.rows) {
    const bool scaled = matrix.scale != Scale::none;
    const long shortest = scaled ? std::min(matrix.row_bytes(), matrix.scale_bytes()) : matrix.row_bytes();
    split_ = std::max(0l, matrix.rows - (overread + shortest - 1) / shortest);
    last_.codes = copy(matrix.codes, matrix.row_bytes(), codes_);
    if (matrix.scales) last_.scales = copy(matrix.scales, matrix.scale_bytes(), scales_);
    if (matrix.biases) last_.biases = copy(matrix.biases, matrix.scale_bytes(), biases_);
  }

  // Calls part(matrix, from, to) for the rows where they are, and for the copied ones, which have the same numbers.
  template <typename Part>
  void each(long from, long to, Part part) const {
    if (from < split_) part(matrix_, from, std::min(to, split_));
    if (to > split_) part(last_, std::max(from, split_), to);
  }

 private:
  // Where row 0 would be if the copy went on before it.
  const uint8_t* copy(const uint8_t* rows, long row_bytes, std::vector<uint8_t>& to) const {
    const long bytes = (matrix_.rows - split_) * row_bytes;
    to.assign(bytes + overread, 0);
    memcpy(to.data(), rows + split_ * row_bytes, bytes);
    return to.data() - split_ * row_bytes;
  }

  const Matrix& matrix_;
  Matrix last_;
  long split_;
  std::vector<uint8_t> codes_, scales_, biases_;
};

// Rows of a task: some tasks per thread, so that no thread waits long for another.
long task_rows(long rows) {
  const long tasks = 4 * Pool::instance().threads();
  return std::max(2 * row_step, (rows / tasks + row_step - 1) / row_step * row_step);
}

}  // namespace

const MatrixKernels* matrix_kernels(const char* name) {
  const auto is = [&](const char* other) { return strcmp(name, other) == 0; };
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (is("avx2")) return avx2 ? &matrix_avx2 : nullptr;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi");
  if (is("avx512")) return avx512 ? &matrix_avx512 : nullptr;
#endif
  return is("plain") ? &matrix_plain : nullptr;
}

void multiply(const MatrixKernels& kernels, const Matrix& matrix, const float* x, long count, float* out) {
  const long rows = matrix.rows, columns = matrix.columns, work = rows * columns * count;
  const Readable readable(matrix);
  if (count == 1) {
    std::vector<float> sums;
    if (matrix.biases) {
      sums.resize(matrix.groups() + overread);
      kernels.group_sums(x, columns, matrix.group, sums.data());
    }
    share(rows, task_rows(rows), work, worth_it, [&](long from, long to) {
      readable.each(from, to, [&](const Matrix& part, long first, long last) {
        kernels.product(part, first, last, x, sums.data(), out + first);
      });
    });
    return;
  }
  const long step = std::max(row_step, cached / columns / row_step * row_step);
  share(rows, std::max(step, task_rows(rows)), work, worth_it, [&](long from, long to) {
    static thread_local std::vector<float> tile;
    tile.resize(step * columns);
    for (long first = from; first < to; first += step) {
      const long last = std::min(to, first + step);
      readable.each(first, last, [&](const Matrix& part, long a, long b) {
        kernels.decode(part, a, b, tile.data() + (a - first) * columns);
      });
      if (count < many) {
        kernels.dense(tile.data(), last - first, columns, x, count, out + first, rows);
      } else {
        scipy_cblas_sgemm(RowMajor, NoTrans, Trans, count, last - first, columns, 1.0f, x, columns, tile.data(), columns, 0.0f,
                          out + first, rows);
      }
    }
  });
}

void multiply(const Matrix& matrix, const float* x, long count, float* out) {
  static const MatrixKernels* const best = [] {
    for (const char* name : {"avx512", "avx2"}) {
      if (const MatrixKernels* kernels = matrix_kernels(name)) return kernels;
    }
    return &matrix_plain;
  }();
  multiply(*best, matrix, x, count, out);
}

}  // namespace mixbit
