// Activations: float32 [rows, width] in recycled, 64-byte aligned memory with exactly one owner.
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

 private:
  std::shared_ptr<BufferPool> pool_;
  size_t bytes_;
  void* data_;
};

// A tensor is not changed once an op has given it out, so its quantized forms are made once and kept with it.
struct Tensor {
  int64_t rows, width;
  std::shared_ptr<Buffer> buffer;
  std::shared_ptr<Buffer> q8_0, q8_k;

  Tensor(const std::shared_ptr<BufferPool>& pool, int64_t rows, int64_t width)
      : rows(rows), width(width), buffer(std::make_shared<Buffer>(pool, sizeof(float) * (size_t)(rows * width))) {}
  float* data() const { return (float*)buffer->data(); }
  float* row(int64_t r) const { return data() + r * width; }
};

// Large aligned memory on huge pages where the system has them; throws std::bad_alloc.
void* allocate_pages(size_t bytes);
void free_pages(void* data, size_t bytes);

}  // namespace linnet
