// Products with stored matrices: the kernels for this processor, split over our threads.

#include "products.hpp"

#include <string.h>

#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "interleaved.hpp"
#include "rows.hpp"
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
  // `matrix` must outlive this.
  explicit Readable(const Matrix& matrix) : matrix_(matrix), last_(matrix), split_(matrix.rows) {
    const bool scaled = matrix.scale != Scale::none;
    const long shortest = scaled ? std::min(matrix.row_bytes(), matrix.scale_bytes()) : matrix.row_bytes();
    split_ = std::max(0l, matrix.rows - (overread + shortest - 1) / shortest);
    last_.codes = copy(matrix.codes, matrix.row_bytes(), codes_);
    if (matrix.scales) last_.scales = copy(matrix.scales, matrix.scale_bytes(), scales_);
    if (matrix.biases) last_.biases = copy(matrix.biases, matrix.scale_bytes(), biases_);
  }

  // Calls use(matrix, from, to) for the rows where they are, and for the copied ones, which have the same numbers.
  template <typename Use>
  void each(long from, long to, Use use) const {
    if (from < split_) use(matrix_, from, std::min(to, split_));
    if (to > split_) use(last_, std::max(from, split_), to);
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
  const long tasks = 8 * Pool::instance().threads();
  return std::max(row_step, (rows / tasks + row_step - 1) / row_step * row_step);
}

// Memory of a thread, for one of two uses.
float* scratch(int which, long count) {
  static thread_local std::vector<float> memory[2];
  memory[which].resize(std::max<size_t>(memory[which].size(), count));
  return memory[which].data();
}

// x, and what matrices share that is made of it: its sums by group, and it as integers.
class Activations {
 public:
  Activations(const MatrixKernels& kernels, const Pass& pass, const float* x, long count)
      : kernels_(kernels), x_(x), columns_(pass.columns()), count_(count) {
    for (const Part& part : pass.parts) {
      if (part.matrix.interleaved) {
        if (!decodes(part.matrix)) split(part.matrix.bits);
      } else if (part.matrix.biases && count == 1) {
        add_sums(part.matrix);
      }
    }
  }

  // out[m * step + row - from] = the product of row m of x with row `row` of the matrix.
  void times(const Matrix& matrix, long from, long to, float* out, long step) const {
    if (decodes(matrix)) return times_decoded(matrix, from, to, out, step);
    const Split& integers = splits_[matrix.bits];
    kernels_.interleaved(matrix, from, to, integers.blocks, count_, out, step);
    if (integers.others.empty()) return;
    float* values = scratch(0, columns_);
    for (long row = from; row < to; ++row) {
      interleaved_row(matrix, row, values);
      for (long m : integers.others) kernels_.dense(values, 1, columns_, x_ + m * columns_, 1, out + m * step + row - from, step);
    }
  }

  void times(const Readable& matrix, long from, long to, float* out, long step) const {
    if (count_ == 1) {
      matrix.each(from, to, [&](const Matrix& part, long first, long last) {
        const float* sums = part.biases ? sums_[part.group >> 6].data() : nullptr;
        kernels_.product(part, first, last, x_, sums, out + first - from);
      });
      return;
    }
    const long tile_rows = rows_of_tile();
    float* tile = scratch(0, tile_rows * columns_);
    for (long first = from; first < to; first += tile_rows) {
      const long last = std::min(to, first + tile_rows);
      matrix.each(first, last, [&](const Matrix& part, long a, long b) {
        kernels_.decode(part, a, b, tile + (a - first) * columns_);
      });
      if (count_ < many) {
        kernels_.dense(tile, last - first, columns_, x_, count_, out + first - from, step);
      } else {
        scipy_cblas_sgemm(RowMajor, NoTrans, Trans, count_, last - first, columns_, 1.0f, x_, columns_, tile, columns_, 0.0f,
                          out + first - from, step);
      }
    }
  }

  // Rows that a thread decodes at a time.
  long rows_of_tile() const { return std::max(row_step, cached / columns_ / row_step * row_step); }

 private:
  // True where OpenBLAS is faster on the decoded rows of an interleaved matrix than integers are.
  bool decodes(const Matrix& matrix) const { return matrix.interleaved && kernels_.decode_interleaved && count_ >= many; }

  void times_decoded(const Matrix& matrix, long from, long to, float* out, long step) const {
    const long tile_rows = rows_of_tile();
    float* tile = scratch(0, tile_rows * columns_);
    for (long first = from; first < to; first += tile_rows) {
      const long last = std::min(to, first + tile_rows);
      kernels_.decode_interleaved(matrix, first, last, tile, tile_rows);
      scipy_cblas_sgemm(RowMajor, NoTrans, NoTrans, count_, last - first, columns_, 1.0f, x_, columns_, tile, tile_rows, 0.0f,
                        out + first - from, step);
    }
  }

  // x as integers for codes of some width.
  struct Split {
    XBlock* blocks = nullptr;  // [count, columns / 32]
    std::vector<long> others;  // rows of x that are not exact as such
  };

  void add_sums(const Matrix& matrix) {
    std::vector<float>& sums = sums_[matrix.group >> 6];
    if (!sums.empty()) return;
    sums.resize(matrix.groups() + overread);
    kernels_.group_sums(x_, columns_, matrix.group, sums.data());
  }

  void split(int bits) {
    Split& integers = splits_[bits];
    if (integers.blocks) return;
    const long blocks = columns_ / block;
    integers.blocks = split_memory(bits, count_ * blocks);
    std::vector<char> exact(count_);
    spread(count_, count_ * columns_, worth_it, [&](long m) {
      exact[m] = kernels_.split(x_ + m * columns_, columns_, bits, integers.blocks + m * blocks);
    });
    for (long m = 0; m < count_; ++m) {
      if (exact[m]) continue;
      integers.others.push_back(m);
      memset(static_cast<void*>(integers.blocks + m * blocks), 0, blocks * sizeof(XBlock));
    }
  }

  // Memory of the calling thread, in which products follow one another.
  static XBlock* split_memory(int bits, long count) {
    static thread_local std::vector<XBlock> memory[9];
    memory[bits].resize(std::max<size_t>(memory[bits].size(), count));
    return memory[bits].data();
  }

  const MatrixKernels& kernels_;
  const float* x_;
  long columns_, count_;
  std::vector<float> sums_[3];  // by group size: 32, 64, 128
  Split splits_[9];  // by bits
};

// Adds bias [columns] and addend [rows, columns of a row of `out`] to some columns of the rows of `out`; null adds nothing.
void add(float* out, const float* bias, const float* addend, long rows, long columns, long step) {
  for (long row = 0; row < rows; ++row, out += step) {
    if (bias) {
      for (long i = 0; i < columns; ++i) out[i] += bias[i];
    }
    if (addend) {
      for (long i = 0; i < columns; ++i) out[i] += addend[i];
      addend += step;
    }
  }
}

// Some rows of one of the matrices.
struct Task {
  long part, from, to;
};

// The rows of all matrices in tasks, so that each thread's share of them has its share of each matrix; of gated ones those of the
// first, which bring the second's with them.
std::vector<Task> tasks_of(const Pass& pass, long step) {
  std::vector<Task> tasks;
  const long parts = pass.gated ? 1 : pass.parts.size(), threads = Pool::instance().threads();
  for (long thread = 0; thread < threads; ++thread) {
    for (long part = 0; part < parts; ++part) {
      const long rows = pass.parts[part].matrix.rows;
      const auto start = [&](long share) { return share == threads ? rows : rows * share / threads / row_step * row_step; };
      const long until = start(thread + 1);
      for (long from = start(thread); from < until; from += step) tasks.push_back({part, from, std::min(until, from + step)});
    }
  }
  return tasks;
}

// The memory that a pass reads.
Upcoming memory_of(const Pass& pass) {
  Upcoming memory;
  for (const auto& [matrix, bias] : pass.parts) {
    if (matrix.interleaved) {
      memory.add(matrix.codes, stripes(matrix) * stripe_bytes(matrix));
    } else {
      memory.add(matrix.codes, matrix.rows * matrix.row_bytes());
      // Whole values have no groups.
      const long scale_bytes = matrix.scales ? matrix.rows * matrix.scale_bytes() : 0;
      memory.add(matrix.scales, scale_bytes);
      memory.add(matrix.biases, scale_bytes);
    }
  }
  return memory;
}

// The order in which matrices are multiplied with one row: the next token meets them in the same one.
class Order {
 public:
  static Order& instance() {
    static Order* order = new Order;
    return *order;
  }

  // Records that a pass is computed now. Returns the memory that was read after it the last time.
  Upcoming after(const Pass& pass, const Upcoming& memory) {
    static thread_local const void* last = nullptr;
    const void* const now = pass.parts[0].matrix.codes;
    std::lock_guard<std::mutex> lock(mutex_);
    if (next_.size() > most_passes) next_.clear();
    next_[last] = memory;
    last = now;
    return next_[now];
  }

 private:
  static constexpr size_t most_passes = 1 << 14;

  std::mutex mutex_;
  std::unordered_map<const void*, Upcoming> next_;  // by the codes of the pass before
};

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
  if (is("vnni")) return avx512 && __builtin_cpu_supports("avx512vnni") ? &matrix_vnni : nullptr;
#endif
  return is("plain") ? &matrix_plain : nullptr;
}

void multiply(const MatrixKernels& kernels, const Pass& pass, const float* x, long count, float* out) {
  const long rows = pass.rows(), work = rows * (pass.gated ? 2 : 1) * pass.columns() * count;
  std::vector<std::optional<Readable>> stored(pass.parts.size());
  std::vector<long> offsets;
  long offset = 0;
  for (size_t i = 0; i < pass.parts.size(); ++i) {
    const Matrix& matrix = pass.parts[i].matrix;
    if (!matrix.interleaved) stored[i].emplace(matrix);
    offsets.push_back(offset);
    offset += matrix.rows;
  }
  Upcoming upcoming;
  if (count == 1) {
    // The first lines arrive while x is made ready.
    const Upcoming own = memory_of(pass);
    Fetching(own, 0, Pool::instance().threads()).fetch_starts();
    upcoming = Order::instance().after(pass, own);
  }
  const Activations activations(kernels, pass, x, count);
  const auto products = [&](long part, long from, long to, float* to_values, long step) {
    if (stored[part]) {
      activations.times(*stored[part], from, to, to_values, step);
    } else {
      activations.times(pass.parts[part].matrix, from, to, to_values, step);
    }
    const float* bias = pass.parts[part].bias;
    add(to_values, bias ? bias + from : nullptr, nullptr, count, to - from, step);
  };
  const std::vector<Task> tasks = tasks_of(pass, count == 1 ? task_rows(rows) : std::max(activations.rows_of_tile(), task_rows(rows)));
  const auto compute = [&](long index) {
    const auto [part, from, to] = tasks[index];
    const long width = to - from, first = offsets[part] + from;
    products(part, from, to, out + first, rows);
    float* second = nullptr;
    if (pass.gated) {
      second = scratch(1, count * width);
      products(1, from, to, second, width);
    }
    if (pass.activation != Activation::none) {
      for (long m = 0; m < count; ++m) activate(pass.activation, out + m * rows + first, second ? second + m * width : nullptr, width);
    }
    if (pass.addend) add(out + first, nullptr, pass.addend + first, count, width, rows);
  };
  spread(tasks.size(), work, worth_it, compute, upcoming);
}

const MatrixKernels& best_kernels() {
  static const MatrixKernels* const best = [] {
    for (const char* name : {"vnni", "avx512", "avx2"}) {
      if (const MatrixKernels* kernels = matrix_kernels(name)) return kernels;
    }
    return &matrix_plain;
  }();
  return *best;
}

}  // namespace mixbit
