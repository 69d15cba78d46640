// cblas_sgemm for libmlx.so: what to compute how, and on how many threads.
//
// A product with one row or one column reads its matrix once: GEMV runs it at the memory's rate, where GEMM would first
// copy the matrix into panels. Generating text is made of these.
//
// Threads are ours, and each part runs on one of OpenBLAS's. OpenBLAS's own wait for each other by spinning: on a busy
// machine every product then costs time slices of the scheduler, and generation comes to a near stop. These spin for some
// microseconds, which is what a product's end is usually away, and then sleep.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

extern "C" {
int scipy_openblas_get_num_threads();
void scipy_openblas_set_num_threads(int);
void scipy_cblas_sgemv(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void scipy_cblas_sgemm(
    int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
}

namespace {

enum { RowMajor = 101, NoTrans = 111, Trans = 112 };

// Products below these many multiplications run on the caller's thread: waking another would cost more.
constexpr long gemv_worth_it = 1l << 18;
constexpr long gemm_worth_it = 1l << 22;

// Looks for `ready` a little while before the caller goes to sleep.
template <typename Ready>
bool spin_for(Ready ready) {
  for (int i = 0; i < 4000; ++i) {
    if (ready()) {
      return true;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

class Pool {
 public:
  // Never destroyed: its threads live as long as the process.
  static Pool& instance() {
    static Pool* pool = new Pool;
    return *pool;
  }

  int threads() const { return threads_; }

  // Calls part(0) .. part(threads - 1), and returns when all are done. A caller that finds the pool taken does all parts.
  void run(const std::function<void(int)>& part) {
    std::unique_lock<std::mutex> mine(taken_, std::try_to_lock);
    if (!mine.owns_lock()) {
      for (int i = 0; i < threads_; ++i) {
        part(i);
      }
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      part_ = &part;
      left_.store(threads_ - 1);
      round_.fetch_add(1);
    }
    wake_.notify_all();
    part(0);
    if (!spin_for([&] { return left_.load() == 0; })) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [&] { return left_.load() == 0; });
    }
  }

 private:
  // As many threads as OpenBLAS would use, so that OPENBLAS_NUM_THREADS is heeded.
  Pool() : threads_(std::max(1, scipy_openblas_get_num_threads())) {
    scipy_openblas_set_num_threads(1);
    for (int i = 1; i < threads_; ++i) {
      std::thread([this, i] { work(i); }).detach();
    }
  }

  void work(int index) {
    for (long seen = 0;; ++seen) {
      auto ready = [&] { return round_.load() != seen; };
      if (!spin_for(ready)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, ready);
      }
      (*part_)(index);
      if (left_.fetch_sub(1) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  const int threads_;
  std::mutex taken_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<long> round_{0};
  std::atomic<int> left_{0};
  const std::function<void(int)>* part_ = nullptr;
};

// Splits 0 .. count, in multiples of 16, over the threads if `work` is worth it.
template <typename Part>
void split(long count, long work, long worth_it, Part part) {
  Pool& pool = Pool::instance();
  const long threads = pool.threads();
  if (threads == 1 || work < worth_it || count < 32) {
    part(0l, count);
    return;
  }
  const long step = (count + threads * 16 - 1) / (threads * 16) * 16;
  pool.run([&](int index) {
    const long from = std::min(count, index * step), to = std::min(count, from + step);
    if (from < to) {
      part(from, to);
    }
  });
}

// y = alpha op(A) x + beta y for A [rows, columns], row-major.
void gemv(int op, long rows, long columns, float alpha, const float* a, long lda, const float* x, int incx, float beta,
          float* y, long incy) {
  if (op == NoTrans) {
    split(rows, rows * columns, gemv_worth_it, [&](long from, long to) {
      scipy_cblas_sgemv(RowMajor, op, to - from, columns, alpha, a + from * lda, lda, x, incx, beta, y + from * incy, incy);
    });
  } else {
    split(columns, rows * columns, gemv_worth_it, [&](long from, long to) {
      scipy_cblas_sgemv(RowMajor, op, rows, to - from, alpha, a + from, lda, x, incx, beta, y + from * incy, incy);
    });
  }
}

}  // namespace

extern "C" void cblas_sgemm(int order, int transa, int transb, int m, int n, int k, float alpha, const float* a, int lda,
                            const float* b, int ldb, float beta, float* c, int ldc) {
  if (order != RowMajor) {
    scipy_cblas_sgemm(order, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } else if (m == 1) {
    const bool plain = transb == NoTrans;
    gemv(plain ? Trans : NoTrans, plain ? k : n, plain ? n : k, alpha, b, ldb, a, transa == NoTrans ? 1 : lda, beta, c, 1);
  } else if (n == 1) {
    const bool plain = transa == NoTrans;
    gemv(plain ? NoTrans : Trans, plain ? m : k, plain ? k : m, alpha, a, lda, b, transb == NoTrans ? ldb : 1, beta, c,
         ldc);
  } else {
    const long work = static_cast<long>(m) * n * k;
    if (m >= n) {
      split(m, work, gemm_worth_it, [&](long from, long to) {
        const float* part = transa == NoTrans ? a + from * lda : a + from;
        scipy_cblas_sgemm(order, transa, transb, to - from, n, k, alpha, part, lda, b, ldb, beta, c + from * ldc, ldc);
      });
    } else {
      split(n, work, gemm_worth_it, [&](long from, long to) {
        const float* part = transb == NoTrans ? b + from : b + from * ldb;
        scipy_cblas_sgemm(order, transa, transb, m, to - from, k, alpha, a, lda, part, ldb, beta, c + from, ldc);
      });
    }
  }
}
