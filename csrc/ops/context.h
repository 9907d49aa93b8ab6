// What a model's operations share: kernels of one instruction set, threads, recycled buffers.
#pragma once
#include <memory>
#include <string>

#include "../core/isa.h"
#include "../core/tensor.h"
#include "../core/threads.h"
#include "../quant/formats.h"

namespace linnet {

struct Context {
  const Kernels& kernels;
  ThreadPool threads;
  std::shared_ptr<BufferPool> buffers = std::make_shared<BufferPool>();

  Context(int thread_count, const std::string& isa) : kernels(kernels_for(isa)), threads(thread_count) {}
  std::shared_ptr<Tensor> tensor(int64_t rows, int64_t width) { return std::make_shared<Tensor>(buffers, rows, width); }
};

// A weight [rows, columns]: packed blocks that it owns, or row-major floats where the file maps them.
struct Matrix {
  const Format& format;
  int64_t rows, columns;
  const uint8_t* data;
  size_t owned;  // bytes of its own memory; 0: reads the caller's

  Matrix(const Format& format, int64_t rows, int64_t columns, const uint8_t* data, size_t owned)
      : format(format), rows(rows), columns(columns), data(data), owned(owned) {}
  ~Matrix() {
    if (owned) free_pages(const_cast<uint8_t*>(data), owned);
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  int64_t blocks() const { return columns / format.block; }
  // Where sixteen packed rows (or one raw row, for floats) begin.
  const uint8_t* group(int64_t g) const { return data + (size_t)(g * blocks()) * format.packed_bytes; }
  const uint8_t* raw_row(int64_t r) const { return data + (size_t)(r * blocks()) * format.raw_bytes; }
  void row_to_floats(int64_t r, float* out) const {
    format.packed_bytes ? format.to_floats(group(r / kRows), (int)(r % kRows), blocks(), out)
                        : format.to_floats(raw_row(r), 0, blocks(), out);
  }
};

// Keys and values of every layer in pages; see kernels.h for the layout of a page.
struct Cache {
  struct Layer {
    int64_t kv_heads, head_dim;
    size_t key_bytes, value_bytes;  // of one page and head
    uint8_t* data;
    size_t bytes;
  };
  bool half;
  int64_t pages;
  std::vector<Layer> layers;

  Cache(const std::vector<std::pair<int64_t, int64_t>>& shapes, int64_t pages, bool half);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  void release_all();
  uint8_t* keys(const Layer& l, int64_t page, int64_t head) const {
    return l.data + (size_t)(page * l.kv_heads + head) * (l.key_bytes + l.value_bytes);
  }
};

// Rows of a batch, as Batch in ops/base.py describes them; the pointers belong to the caller.
struct BatchView {
  int64_t count, sequences, widest;
  const int32_t *positions, *sequence, *page_table;
};

using TensorPointer = std::shared_ptr<Tensor>;

std::shared_ptr<Matrix> make_matrix(Context&, const uint8_t* raw, const Format& stored, const Format& target, int64_t rows,
                                    int64_t columns);
TensorPointer linear(Context&, Tensor& x, const Matrix& w, const Tensor* bias);
TensorPointer embed(Context&, const int32_t* tokens, int64_t count, const Matrix& table);
TensorPointer rms_norm(Context&, const Tensor& x, const Tensor& weight, float epsilon, int64_t groups);
TensorPointer rotate(Context&, const Tensor& x, const float* cosine, const float* sine, int dim, int head_dim, bool interleaved);
TensorPointer add(Context&, const Tensor& a, const Tensor& b);
TensorPointer activate(Context&, const Tensor& x, int activation);
TensorPointer gate(Context&, const Tensor& g, const Tensor& u, int activation);
TensorPointer take(Context&, const Tensor& x, const int32_t* rows, int64_t count);
TensorPointer attend(Context&, Cache&, const BatchView&, const Tensor& q, const Tensor& k, const Tensor& v, int layer, int heads,
                     float scale, int64_t window);

}  // namespace linnet
