// KV pages and attention over them, shared out by sequence, KV head and runs of query rows.
#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "context.h"

namespace linnet {

namespace {

constexpr int64_t kTaskRows = 64;  // query rows of one task

struct Task {
  int64_t first, last;  // input rows [first, last)
  int64_t head;         // KV head
};

// Zeroed memory that the system commits page by page, as it is written.
uint8_t* reserve(size_t bytes) {
#if defined(__linux__)
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return (uint8_t*)data;
#else
  void* data = std::calloc(bytes, 1);
  if (!data) throw std::bad_alloc();
  return (uint8_t*)data;
#endif
}

void release(uint8_t* data, size_t bytes) {
#if defined(__linux__)
  munmap(data, bytes);
#else
  (void)bytes;
  std::free(data);
#endif
}

}  // namespace

Cache::Cache(const std::vector<std::pair<int64_t, int64_t>>& shapes, int64_t pages, bool half) : half(half), pages(pages) {
  size_t value = half ? 2 : 4;
  for (auto [kv_heads, head_dim] : shapes) {
    Layer l{kv_heads, head_dim, (size_t)(head_dim * kPage) * value, (size_t)((head_dim + 15) / 16 * 16 * kPage) * value, nullptr, 0};
    l.bytes = (size_t)(pages * kv_heads) * (l.key_bytes + l.value_bytes);
    layers.push_back(l);
  }
  try {
    for (Layer& l : layers) l.data = reserve(l.bytes);
  } catch (...) {
    release_all();
    throw;
  }
}

Cache::~Cache() { release_all(); }

void Cache::release_all() {
  for (Layer& l : layers) {
    if (l.data) release(l.data, l.bytes);
  }
}

TensorPointer attend(Context& c, Cache& cache, const BatchView& b, const Tensor& q, const Tensor& k, const Tensor& v, int layer, int heads,
                     float scale, int64_t window) {
  const Cache::Layer& l = cache.layers[(size_t)layer];
  int64_t group = heads / l.kv_heads;
  AttentionShape shape{(int)l.head_dim, (int)l.head_dim, scale, 0.0f, cache.half ? KvType::F16 : KvType::F32};
  c.threads.run(b.count, [&](int64_t i, int) {
    int64_t position = b.positions[i], page = b.page_table[b.sequence[i] * b.widest + position / kPage];
    for (int64_t h = 0; h < l.kv_heads; h++) {
      uint8_t* keys = cache.keys(l, page, h);
      c.kernels.store_kv(shape, k.row(i) + h * l.head_dim, v.row(i) + h * l.head_dim, (int)(position % kPage), keys, keys + l.key_bytes);
    }
  });

  // Runs of input rows of one sequence, short enough to balance the threads; bits do not depend on the cut.
  std::vector<Task> tasks;
  int64_t most = std::max<int64_t>(1, kTaskRows / group);
  for (int64_t first = 0; first < b.count;) {
    int64_t last = first + 1;
    while (last < b.count && b.sequence[last] == b.sequence[first] && last - first < most) last++;
    for (int64_t h = 0; h < l.kv_heads; h++) tasks.push_back({first, last, h});
    first = last;
  }
  auto y = c.tensor(b.count, q.width);
  size_t scratch = attend_scratch(shape, (int)(std::max(most, (int64_t)1) * group)) * sizeof(float);
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (int t = 0; t < c.threads.size(); t++) buffers.push_back(std::make_shared<Buffer>(c.buffers, scratch));
  c.threads.run((int64_t)tasks.size(), [&](int64_t index, int thread) {
    const Task& task = tasks[(size_t)index];
    std::vector<QueryRow> rows;
    for (int64_t i = task.first; i < task.last; i++) {
      int64_t last = b.positions[i], first = window > 0 && last >= window ? last - window + 1 : 0;
      for (int64_t g = 0; g < group; g++) {
        int64_t offset = (task.head * group + g) * l.head_dim;
        rows.push_back({q.row(i) + offset, y->row(i) + offset, first, last, last, 0.0f, -__builtin_inff()});
      }
    }
    int64_t first_page = rows.front().first / kPage, last_page = rows.back().last / kPage;
    const int32_t* table = b.page_table + b.sequence[task.first] * b.widest;
    std::vector<PageView> pages;
    for (int64_t p = first_page; p <= last_page; p++) {
      uint8_t* keys = cache.keys(l, table[p], task.head);
      pages.push_back({keys, keys + l.key_bytes});
    }
    c.kernels.attend(shape, rows.data(), (int)rows.size(), pages.data(), (int64_t)pages.size(), first_page,
                     (float*)buffers[(size_t)thread]->data());
  });
  return y;
}

}  // namespace linnet
