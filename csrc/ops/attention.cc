// KV pages and attention over them, shared out by sequence, KV head and runs of query rows.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "record.h"

namespace linnet {

namespace {

constexpr int64_t kTaskRows = 64;  // query rows of one task

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

AttentionShape shape_of(const Cache::Shape& kv, KvType type, float scale = 0, float softcap = 0) {
  return {(int)kv.head_dim, (int)kv.value_dim, scale, softcap, type};
}

// What the tasks of one attention have in common.
struct Attending {
  AttendShape shape;
  int64_t group;  // query heads of a KV head
  int q, y;
  VectorPointer slopes, sinks;
};

// A run of input rows [first, last) of one sequence and one KV head.
struct Piece {
  int64_t first, last, head;
};

// Runs short enough to balance the threads; bits do not depend on the cut.
void cut(const StepView& s, int64_t kv_heads, int64_t most, std::vector<Piece>& pieces) {
  pieces.clear();
  for (int64_t first = 0; first < s.count;) {
    int64_t last = first + 1;
    while (last < s.count && s.sequence[last] == s.sequence[first] && last - first < most) last++;
    for (int64_t h = 0; h < kv_heads; h++) pieces.push_back({first, last, h});
    first = last;
  }
}

void attend_piece(const Run& run, const Attending& a, const Piece& piece) {
  const StepView& s = run.step;
  const Cache::Layer& l = run.cache->layers[(size_t)a.shape.layer];
  static thread_local std::vector<QueryRow> rows;
  static thread_local std::vector<PageView> pages;
  static thread_local std::vector<float> scratch;
  rows.clear();
  pages.clear();
  int64_t sequence = s.sequence[piece.first], begin = INT64_MAX, end = 0;
  for (int64_t i = piece.first; i < piece.last; i++) {
    int64_t position = s.positions[i], last = position;
    if (a.shape.bidirectional) last = std::max<int64_t>(last, s.prompt_lengths[sequence] - 2);
    int64_t first = a.shape.window > 0 ? std::max<int64_t>(0, position + 1 - a.shape.window) : 0;
    begin = std::min(begin, first);
    end = std::max(end, last);
    for (int64_t g = 0; g < a.group; g++) {
      int64_t head = piece.head * a.group + g;
      QueryRow row{};
      row.q = run.row(a.q, i) + head * l.head_dim;
      row.out = run.row(a.y, i) + head * l.value_dim;
      row.first = first;
      row.last = last;
      row.position = position;
      row.slope = a.slopes ? (*a.slopes)[(size_t)head] : 0.0f;
      row.sink = a.sinks ? (*a.sinks)[(size_t)head] : -INFINITY;
      rows.push_back(row);
    }
  }
  const int32_t* table = s.pages(l.group, sequence);
  for (int64_t p = begin / kPage; p <= end / kPage; p++) {
    uint8_t* keys = run.cache->keys(l, table[p], piece.head);
    pages.push_back({keys, keys + l.key_bytes});
  }
  AttentionShape shape = shape_of(l, run.cache->type, a.shape.scale, a.shape.softcap);
  scratch.resize(attend_scratch(shape, (int)rows.size()));
  run.context.kernels.attend(shape, rows.data(), (int)rows.size(), pages.data(), (int64_t)pages.size(), begin / kPage, scratch.data());
}

// Keys and values of every row, to the pages of their layer.
int record_store(Tape& tape, int layer, int k, int v) {
  int stored = tape.value(Rows::All, 0);
  tape.add_rows(Rows::All, {k, v}, {stored}, [=](const Run& run, int64_t first, int64_t last) {
    const StepView& s = run.step;
    const Cache::Layer& l = run.cache->layers[(size_t)layer];
    AttentionShape sizes = shape_of(l, run.cache->type);
    for (int64_t i = first; i < last; i++) {
      int64_t position = s.positions[i], page = s.pages(l.group, s.sequence[i])[position / kPage];
      for (int64_t h = 0; h < l.kv_heads; h++) {
        uint8_t* keys = run.cache->keys(l, page, h);
        run.context.kernels.store_kv(sizes, run.row(k, i) + h * l.head_dim, run.row(v, i) + h * l.value_dim, (int)(position % kPage), keys,
                                     keys + l.key_bytes);
      }
    }
  });
  return stored;
}

}  // namespace

Cache::Cache(const std::vector<Shape>& shapes, const std::vector<int64_t>& groups, const std::vector<int64_t>& pages, KvType type)
    : type(type), pages(pages) {
  for (size_t i = 0; i < shapes.size(); i++) {
    AttentionShape sizes = shape_of(shapes[i], type);
    Layer l{shapes[i], groups[i], key_bytes(sizes), value_bytes(sizes), nullptr, 0};
    if (l.state) l.kv_heads = 1, l.key_bytes = sizeof(float) * (size_t)l.state, l.value_bytes = 0;
    l.bytes = (size_t)(pages[(size_t)l.group] * l.kv_heads) * (l.key_bytes + l.value_bytes);
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

void Cache::copy_page(int64_t source, int64_t target, int64_t group) {
  for (Layer& l : layers) {
    if (l.group != group) continue;
    size_t bytes = (size_t)l.kv_heads * (l.key_bytes + l.value_bytes);
    std::memcpy(keys(l, target, 0), keys(l, source, 0), bytes);
  }
}

bool Cache::has_states(int64_t group) const {
  return std::any_of(layers.begin(), layers.end(), [=](const Layer& l) { return l.group == group && l.state; });
}

void Cache::release_all() {
  for (Layer& l : layers) {
    if (l.data) release(l.data, l.bytes);
  }
}

int record_attend(Tape& tape, const Cache::Shape& kv, const AttendShape& shape, int q, int k, int v, VectorPointer slopes,
                  VectorPointer sinks) {
  int y = tape.floats(Rows::All, shape.heads * kv.value_dim);
  std::vector<int> reads{q};
  if (k >= 0) reads.push_back(record_store(tape, shape.layer, k, v));
  Attending attention{shape, shape.heads / kv.kv_heads, q, y, slopes, sinks};
  tape.add_whole(reads, {y}, [=](const Run& run) {
    static thread_local std::vector<Piece> kept;
    std::vector<Piece>& pieces = kept;
    cut(run.step, kv.kv_heads, std::max<int64_t>(1, kTaskRows / attention.group), pieces);
    run.threads.run((int64_t)pieces.size(), [&](int64_t index, int) { attend_piece(run, attention, pieces[(size_t)index]); });
  });
  return y;
}

}  // namespace linnet
