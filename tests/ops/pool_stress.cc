// Thousands of short runs of the thread pool: every tile is done once, exceptions arrive, sleeping workers wake.
// Built and run under the thread sanitizer by test_threads.py.
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>

#include "../../csrc/core/threads.h"

int main() {
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
