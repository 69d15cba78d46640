// The threads that native code here shares.
//
// OpenBLAS's own wait for each other by spinning: on a busy machine every product then costs time slices of the scheduler,
// and generation comes to a near stop. These spin for some microseconds, which is what a product's end is usually away, and
// then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "prefetch.hpp"

extern "C" {
int scipy_openblas_get_num_threads();
void scipy_openblas_set_num_threads(int);
}

namespace mixbit {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Looks for `ready` a little while before the caller goes to sleep, and calls `idle` between looks.
template <typename Ready, typename Idle>
bool spin_for(Ready ready, Idle idle) {
  for (int i = 0; i < 4000; ++i) {
    if (ready()) return true;
    idle();
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

  // Calls task(0) .. task(count - 1), and returns when all are done. Each thread has an equal share of successive tasks, and
  // takes others' when its own are done: which one does a task makes no difference to it. A caller does all of them, one after
  // the other, that finds the pool taken, or is one of as many as there are threads; it waits for no thread that has not begun.
  // While other threads wait for what is next they fetch `upcoming`.
  void run(long count, const std::function<void(long)>& task, const Upcoming& upcoming = {}) {
    std::unique_lock<std::mutex> mine(taken_, std::defer_lock);
    if (callers_.load() >= threads_ || !mine.try_lock()) {
      for (long i = 0; i < count; ++i) task(i);
      return;
    }
    task_ = &task;
    upcoming_ = upcoming;
    for (int i = 0; i < threads_; ++i) {
      shares_[i].next.store(count * i / threads_);
      shares_[i].end = count * (i + 1) / threads_;
    }
    finished_.store(0);
    round_.store((round_.load() / round_step + 1) * round_step + open);
    if (sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    // Others still compute with what the caller has: it leaves when they are done.
    std::exception_ptr failure;
    try {
      take_tasks(0);
    } catch (...) {
      failure = std::current_exception();
    }
    const long joined = (round_.fetch_and(~open) % round_step) / member;
    const auto done = [&] { return finished_.load() == joined; };
    if (!spin_for(done, pause)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, done);
    }
    if (failure) std::rethrow_exception(failure);
  }

 private:
  // Parts of `round_`: whether threads may still join, how many did, and the number of the round.
  static constexpr long open = 1, member = 2, round_step = 1 << 16;

  // As many threads as OpenBLAS would use, so that OPENBLAS_NUM_THREADS is heeded.
  Pool() : threads_(std::max(1, scipy_openblas_get_num_threads())), shares_(threads_) {
    scipy_openblas_set_num_threads(1);
    for (int i = 1; i < threads_; ++i) {
      std::thread([this, i] { work(i); }).detach();
    }
  }

  // Tasks that a thread takes first.
  struct alignas(64) Share {
    std::atomic<long> next{0};
    long end = 0;
  };

  void take_tasks(int thread) {
    for (int i = 0; i < threads_; ++i) {
      Share& share = shares_[(thread + i) % threads_];
      for (long task; (task = share.next.fetch_add(1)) < share.end;) (*task_)(task);
    }
  }

  void work(int thread) {
    long seen = 0;
    Upcoming upcoming;
    const auto ready = [&] { return is_new(round_.load(), seen); };
    while (true) {
      Fetching fetching(upcoming, thread, threads_);
      const auto idle = [&] {
        if (!fetching.fetch_some()) pause();
      };
      if (!spin_for(ready, idle)) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, ready);
        sleeping_.fetch_sub(1);
      }
      long round = round_.load();
      if (!is_new(round, seen) || !round_.compare_exchange_strong(round, round + member)) continue;
      seen = round / round_step;
      take_tasks(thread);
      upcoming = upcoming_;
      finished_.fetch_add(1);
      std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
  }

  static bool is_new(long round, long seen) { return round % 2 == open && round / round_step != seen; }

  const int threads_;
  std::mutex taken_, mutex_;
  std::condition_variable wake_, done_;
  std::atomic<long> round_{0}, finished_{0};
  std::atomic<int> sleeping_{0}, callers_{1};
  std::vector<Share> shares_;
  Upcoming upcoming_;
  const std::function<void(long)>* task_ = nullptr;
};

// Calls part(from, until) for 0 .. count in steps, on the threads if `work` is worth it.
template <typename Part>
void share(long count, long step, long work, long worth_it, Part part, const Upcoming& upcoming = {}) {
  Pool& pool = Pool::instance();
  if (pool.threads() == 1 || work < worth_it || count <= step) {
    part(0l, count);
    return;
  }
  pool.run((count + step - 1) / step, [&](long i) { part(i * step, std::min(count, (i + 1) * step)); }, upcoming);
}

// Splits 0 .. count into one part per thread, in multiples of 16, if `work` is worth it.
template <typename Part>
void split(long count, long work, long worth_it, Part part) {
  const long threads = Pool::instance().threads();
  share(count, count < 32 ? count : (count + threads * 16 - 1) / (threads * 16) * 16, work, worth_it, part);
}

// Calls part(0) .. part(count - 1), on the threads if `work` is worth it.
template <typename Part>
void spread(long count, long work, long worth_it, Part part, const Upcoming& upcoming = {}) {
  const auto parts = [&](long from, long until) {
    for (long i = from; i < until; ++i) part(i);
  };
  share(count, 1, work, worth_it, parts, upcoming);
}

}  // namespace mixbit
