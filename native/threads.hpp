// The threads that native code here shares.
//
// OpenBLAS's own wait for each other by spinning: on a busy machine every product then costs time slices of the scheduler,
// and generation comes to a near stop. These spin for some microseconds, which is what a product's end is usually away, and
// then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

extern "C" {
int scipy_openblas_get_num_threads();
void scipy_openblas_set_num_threads(int);
}

namespace mixbit {

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

  // Says how many threads are about to call at once.
  void expect(int callers) { callers_.store(callers); }

  // Calls part(0) .. part(threads - 1), and returns when all are done. The parts are the same whoever does them: a caller
  // does all, one after the other, that finds the pool taken, or is one of as many as there are threads.
  void run(const std::function<void(int)>& part) {
    std::unique_lock<std::mutex> mine(taken_, std::defer_lock);
    if (callers_.load() >= threads_ || !mine.try_lock()) {
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
  std::atomic<int> left_{0}, callers_{1};
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

// Calls part(0) .. part(count - 1), in turn on the threads if `work` is worth it.
template <typename Part>
void spread(long count, long work, long worth_it, Part part) {
  Pool& pool = Pool::instance();
  const long threads = pool.threads();
  if (threads == 1 || work < worth_it || count < 2) {
    for (long i = 0; i < count; ++i) {
      part(i);
    }
    return;
  }
  pool.run([&](int index) {
    for (long i = index; i < count; i += threads) {
      part(i);
    }
  });
}

}  // namespace mixbit
