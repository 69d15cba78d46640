// Memory that is fetched before it is wanted, by threads that have nothing else to do.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mixbit {

// Memory that is likely to be read next. Of each piece a thread reads its share. The pieces need not exist any more: a processor
// ignores requests for what is not there.
struct Upcoming {
  struct Piece {
    const uint8_t* from;
    long bytes;
  };
  static constexpr int most = 12;
  Piece pieces[most] = {};
  int count = 0;

  void add(const void* from, long bytes) {
    if (from && count < most) pieces[count++] = {static_cast<const uint8_t*>(from), bytes};
  }
};

// Has a thread's share of what is upcoming fetched into its level-2 cache, some lines at a time.
class Fetching {
 public:
  Fetching(const Upcoming& upcoming, int thread, int threads) : upcoming_(upcoming), thread_(thread), threads_(threads) {}

  // False where there is no more to fetch.
  bool fetch_some() {
    if (fetched_ >= most_bytes) return false;
    while (at_ >= end_) {
      if (piece_ == upcoming_.count) return false;
      const auto [from, bytes] = upcoming_.pieces[piece_++];
      at_ = from + bytes * thread_ / threads_;
      end_ = from + bytes * (thread_ + 1) / threads_;
    }
    const uint8_t* const until = std::min(end_, at_ + lines * 64);
    fetched_ += until - at_;
    for (; at_ < until; at_ += 64) __builtin_prefetch(at_, 0, 2);
    return true;
  }

  // The first lines of each piece: as many as a processor waits for at a time.
  void fetch_starts() {
    for (; piece_ < upcoming_.count; at_ = end_) fetch_some();
  }

 private:
  static constexpr int lines = 16;
  // What a level-2 cache holds at least.
  static constexpr long most_bytes = 1 << 19;

  const Upcoming& upcoming_;
  const int thread_, threads_;
  int piece_ = 0;
  long fetched_ = 0;
  const uint8_t *at_ = nullptr, *end_ = nullptr;
};

}  // namespace mixbit
