// Memory: recycled, 64-byte aligned buffers with exactly one owner, and large pages for weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace linnet {

// Gives out buffers and takes them back; sizes are rounded up to powers of two so that steps reuse each other's.
class BufferPool {
 public:
  ~BufferPool();
  void* take(size_t bytes);
  void give(void* buffer, size_t bytes);

 private:
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
};

// One buffer of the pool; returns there when dropped.
class Buffer {
 public:
  Buffer(std::shared_ptr<BufferPool> pool, size_t bytes) : pool_(std::move(pool)), bytes_(bytes), data_(pool_->take(bytes)) {}
  ~Buffer() { pool_->give(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<BufferPool> pool_;
  size_t bytes_;
  void* data_;
};

// Large aligned memory on huge pages where the system has them; throws std::bad_alloc.
void* allocate_pages(size_t bytes);
void free_pages(void* data, size_t bytes);

}  // namespace linnet
