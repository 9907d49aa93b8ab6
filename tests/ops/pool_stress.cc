// Thousands of short runs of the thread pool: every tile is done once, exceptions arrive, sleeping workers wake; and whatever the
// program's floats are set to, tiles compute with those of the standard.
// Built and run under the thread sanitizer by test_threads.py.
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>

#include "../../csrc/core/threads.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// As a library that was built for speed leaves it behind: what is smaller than a normal number is zero. False: not known how.
static bool flush_small_floats() {
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
  return true;
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(1ul << 24));
  return true;
#else
  return false;
#endif
}

static bool small_floats() {
  volatile float small = 1e-39f, half = small * 0.5f;
  return half != 0;
}

static bool floats_are_standard() {
  if (!flush_small_floats()) return true;
  std::atomic<int> kept{0};
  {
    linnet::ThreadPool pool(3);
    for (int count : {1, 64}) pool.run(count, [&](int64_t, int) { kept += small_floats(); });
  }
  return kept == 65 && !small_floats();
}

int main() {
  if (!floats_are_standard()) return std::puts("floats as the program has them, or not given back"), 1;
  for (int threads = 1; threads <= 5; threads++) {
    linnet::ThreadPool pool(threads);
    for (int i = 0; i < 10000; i++) {
      int count = i % 37;
      long done[37] = {0};
      pool.run(count, [&](int64_t tile, int) { done[tile] += tile + 1; });
      for (int tile = 0; tile < 37; tile++) {
        if (done[tile] != (tile < count ? tile + 1 : 0)) return std::printf("run %d, tile %d: %ld\n", i, tile, done[tile]), 1;
      }
      if (i % 1000 != 7) continue;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // past the spinning: workers sleep
      bool caught = false;
      try {
        pool.run(8, [](int64_t tile, int) {
          if (tile == 3) throw std::runtime_error("tile 3");
        });
      } catch (const std::runtime_error&) {
        caught = true;
      }
      if (!caught) return std::printf("run %d: the exception is lost\n", i), 1;
    }
  }
  std::puts("done");
}
