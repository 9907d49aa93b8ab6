#include "threads.h"

#include <chrono>
#include <new>
#include <stdexcept>
#include <string>
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
constexpr uint64_t kOpen = 1ull << 31, kNumber = 1ull << 32;

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
#elif defined(__aarch64__)
  uint64_t saved;
  StandardFloats() {
    asm volatile("mrs %0, fpcr" : "=r"(saved));
    set(0);
  }
  ~StandardFloats() { set(saved); }
  static void set(uint64_t fpcr) { asm volatile("msr fpcr, %0" : : "r"(fpcr) : "memory"); }
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

ThreadPool::ThreadPool(int threads) : shares_(new Share[(size_t)threads]), process_(process_id()) {
  try {
    for (int t = 1; t < threads; t++) workers_.emplace_back([this, t] { loop(t); });
  } catch (const std::exception&) {  // std::system_error, or no memory for one more
    int started = size();
    stop();
    throw std::runtime_error("the system starts only " + std::to_string(started) + " of " + std::to_string(threads) + " threads");
  }
}

ThreadPool::~ThreadPool() {
  if (process_ != process_id()) {
    // A forked child has none of these threads: to join them would never end, and to detach them could take hold of threads of its
    // own, which the system makes where those stood. Nobody destroys them.
    new std::vector<std::thread>(std::move(workers_));
    new (&wake_) std::condition_variable;  // its copy counts sleepers that are not here, and its destructor would wait for them
    return;
  }
  stop();
}

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    run_ += kNumber;
  }
  wake_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::take_tiles(int thread) {
  try {
    for (int i = 0; i < size(); i++) {
      Share& share = shares_[(size_t)((thread + i) % size())];
      // Looked at before it is counted up: at the end of a run every thread comes by every share.
      while (share.next.load(std::memory_order_relaxed) < share.end) {
        int64_t index = share.next.fetch_add(1, std::memory_order_relaxed);
        if (index < share.end) call_(work_, index, thread);
      }
    }
  } catch (...) {
    for (int t = 0; t < size(); t++) shares_[(size_t)t].next.store(shares_[(size_t)t].end, std::memory_order_relaxed);
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
  for (int64_t t = 0; t < size(); t++) {
    Share& share = shares_[(size_t)t];
    share.next.store(count * t / size(), std::memory_order_relaxed);
    share.end = count * (t + 1) / size();
  }
  run_.store((run_.load() | kOpen) + kNumber);  // sequentially consistent: a worker either sees it or is counted in sleeping_
  if (sleeping_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take_tiles(0);
  run_.fetch_and(~kOpen);
  for (int spins = 0; run_.load(std::memory_order_acquire) & (kOpen - 1); spins++) {
    if (spins < 4096) {
      relax();
    } else {
      std::this_thread::yield();  // a worker lost its core halfway through a tile: let it have one
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::loop(int thread) {
  StandardFloats floats;
  for (uint64_t seen = 0;;) {
    uint64_t run = wait_past(seen);
    if (stop_) return;
    seen = run / kNumber;
    while (run & kOpen) {
      if (!run_.compare_exchange_weak(run, run + 1)) continue;
      seen = run / kNumber;
      take_tiles(thread);
      run_.fetch_sub(1, std::memory_order_release);
      break;
    }
  }
}

// The state of the first run after `seen`: spins for a while, then sleeps.
uint64_t ThreadPool::wait_past(uint64_t seen) {
  auto limit = std::chrono::steady_clock::now() + kSpin;
  for (;;) {
    for (int i = 0; i < 64; i++) {
      uint64_t run = run_.load(std::memory_order_acquire);
      if (run / kNumber != seen) return run;
      relax();
    }
    if (std::chrono::steady_clock::now() < limit) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1);
    wake_.wait(lock, [&] { return run_.load() / kNumber != seen; });
    sleeping_.fetch_sub(1);
  }
}

}  // namespace linnet
