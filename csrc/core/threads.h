// A pool of threads that share out the tiles of one operation after another.
//
// The calling thread works too, and waits only for workers that have begun: one that sleeps or has lost its core costs
// nothing but its help. Workers spin for up to 50 microseconds between operations, then sleep until the next. Every thread
// has a share of the tiles, neighbours one after another, so that it reads memory in order; then it helps with others'
// shares. Which thread takes a tile never changes what the tile computes.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace linnet {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // throws std::runtime_error where the system does not start as many
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return (int)workers_.size() + 1; }

  // Calls work(index, thread) for every index below count; thread is below size(). Returns when all are done; where one
  // throws, what is not begun is left, and the first exception is thrown here.
  template <class Work>
  void run(int64_t count, const Work& work) {
    run_erased(count, [](const void* w, int64_t index, int thread) { (*(const Work*)w)(index, thread); }, &work);
  }

 private:
  using Call = void (*)(const void* work, int64_t index, int thread);
  void run_erased(int64_t count, Call call, const void* work);
  void stop();
  void loop(int thread);
  uint64_t wait_past(uint64_t seen);
  void take_tiles(int thread);

  // Tiles [next, end), handed out by the counter; next runs past the end.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  Call call_ = nullptr;
  const void* work_ = nullptr;
  std::unique_ptr<Share[]> shares_;  // one for each thread
  // Number of the run << 32 | kOpen while workers may join it | how many are in it. The fields above belong to whoever
  // is in an open run; the caller changes them only when nobody is.
  std::atomic<uint64_t> run_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_{0};
  std::exception_ptr error_;  // of the current run, under mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  long process_;  // a forked child has the pool and none of its threads
};

}  // namespace linnet
