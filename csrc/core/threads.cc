#include "threads.h"

#include <chrono>
#include <new>
#include <utility>
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace linnet {

namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The host program may have changed rounding or denormal handling; results must not depend on that.
struct StandardFloats {
#if defined(__x86_64__) || defined(_M_X64)
  unsigned saved = _mm_getcsr();
  StandardFloats() { _mm_setcsr(0x1f80); }
  ~StandardFloats() { _mm_setcsr(saved); }
#endif
};

long process_id() {
#if defined(_WIN32)
  return 0;  // nothing forks
#else
  return (long)getpid();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : process_(process_id()) {
  for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { loop(t); });
}

ThreadPool::~ThreadPool() {
  if (process_ != process_id()) {  // in a forked child there is nothing to join: waiting would never end
    for (std::thread& t : workers_) t.detach();
    new (&wake_) std::condition_variable;  // its copy counts sleepers that are not here, and its destructor would wait for them
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    epoch_++;
  }
  wake_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::take_tiles(int thread) {
  try {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) call_(work_, i, thread);
  } catch (...) {
    next_.store(count_, std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run_erased(int64_t count, Call call, const void* work) {
  StandardFloats floats;
  if (workers_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; i++) call(work, i, 0);
    return;
  }
  call_ = call;
  work_ = work;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  busy_.store((int)workers_.size(), std::memory_order_relaxed);
  epoch_.fetch_add(1);  // sequentially consistent: a worker either sees it or is counted in sleeping_
  if (sleeping_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take_tiles(0);
  for (int spins = 0; busy_.load(std::memory_order_acquire) > 0; spins++) {
    if (spins < 4096) {
      relax();
    } else {
      std::this_thread::yield();  // a worker was descheduled: let it have the core
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::loop(int thread) {
  StandardFloats floats;
  uint64_t seen = 0;
  for (;;) {
    auto limit = std::chrono::steady_clock::now() + kSpin;
    while (epoch_.load(std::memory_order_acquire) == seen) {
      for (int i = 0; i < 64 && epoch_.load(std::memory_order_relaxed) == seen; i++) relax();
      if (std::chrono::steady_clock::now() < limit) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return epoch_.load() != seen; });
      sleeping_.fetch_sub(1);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_) return;
    take_tiles(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace linnet
