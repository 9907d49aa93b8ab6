#include "buffers.h"

#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace linnet {

namespace {

constexpr size_t kAlign = 64, kHugePage = 2 << 20;

size_t rounded(size_t bytes) {
  size_t size = 4096;
  while (size < bytes) size *= 2;
  return size;
}

}  // namespace

void* allocate_pages(size_t bytes) {
  size_t align = bytes >= kHugePage ? kHugePage : kAlign;
  void* data = ::operator new(bytes ? bytes : 1, std::align_val_t(align));
#if defined(__linux__)
  // Whole huge pages only: a tail that is not filled should not take two megabytes.
  if (align == kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return data;
}

void free_pages(void* data, size_t bytes) { ::operator delete(data, std::align_val_t(bytes >= kHugePage ? kHugePage : kAlign)); }

BufferPool::~BufferPool() {
  for (auto& [size, list] : free_) {
    for (void* data : list) free_pages(data, size);
  }
}

void* BufferPool::take(size_t bytes) {
  size_t size = rounded(bytes);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<void*>& list = free_[size];
    if (!list.empty()) {
      void* data = list.back();
      list.pop_back();
      return data;
    }
  }
  return allocate_pages(size);
}

void BufferPool::give(void* buffer, size_t bytes) {
  size_t size = rounded(bytes);
  try {
    std::lock_guard<std::mutex> lock(mutex_);
    free_[size].push_back(buffer);
  } catch (const std::bad_alloc&) {  // called by destructors
    free_pages(buffer, size);
  }
}

}  // namespace linnet
