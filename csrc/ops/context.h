// What a model's operations share: kernels of one instruction set, threads, recycled buffers; and its weights and KV pages.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../core/buffers.h"
#include "../core/isa.h"
#include "../core/threads.h"
#include "../quant/formats.h"

namespace linnet {

struct Context {
  const Kernels& kernels;
  ThreadPool decode, prefill;  // prefill: without workers of its own where both counts are equal
  std::shared_ptr<BufferPool> buffers = std::make_shared<BufferPool>();

  Context(int threads, int prefill_threads, const std::string& isa)
      : kernels(kernels_for(isa)),
        decode(threads),
        prefill(prefill_threads == threads ? 1 : prefill_threads),
        same_(prefill_threads == threads) {}
  ThreadPool& threads(bool for_prompt) { return for_prompt && !same_ ? prefill : decode; }

 private:
  bool same_;
};

// A weight [rows, columns], or a stack of `experts` of them: packed blocks that it owns, or rows as the file maps them.
struct Matrix {
  const Format& format;
  int64_t experts, rows, columns;
  const uint8_t* data;
  size_t owned;  // bytes of its own memory; 0: reads the caller's
  bool packed;   // sixteen rows together; else row-major as stored, which block formats are only to save memory

  Matrix(const Format& format, int64_t experts, int64_t rows, int64_t columns, const uint8_t* data, size_t owned, bool packed)
      : format(format), experts(experts), rows(rows), columns(columns), data(data), owned(owned), packed(packed) {}
  ~Matrix() {
    if (owned) free_pages(const_cast<uint8_t*>(data), owned);
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  int64_t blocks() const { return columns / format.block; }
  int64_t groups() const { return (rows + kRows - 1) / kRows; }  // of one expert
  size_t group_bytes() const { return (size_t)blocks() * format.packed_bytes; }
  size_t row_bytes() const { return (size_t)blocks() * format.raw_bytes; }
  // Where sixteen packed rows (or one raw row) of an expert begin.
  const uint8_t* group(int64_t expert, int64_t g) const { return data + (size_t)(expert * groups() + g) * group_bytes(); }
  const uint8_t* raw_row(int64_t expert, int64_t r) const { return data + (size_t)(expert * rows + r) * row_bytes(); }
  // Packs group g of a matrix that is row-major into `to`, group_bytes() of it.
  void pack_group(int64_t expert, int64_t g, uint8_t* to) const;
  void row_to_floats(int64_t r, float* out) const;
};

// A norm weight, a bias, or biases of experts one after another.
struct Vector : std::vector<float> {
  using std::vector<float>::vector;
};

// Keys and values of every layer in pages, or of a recurrent one states; see kernels.h for the layout of a page. Layers of one group have
// the pages of their sequences, and so their numbers, in common.
struct Cache {
  struct Shape {
    int64_t kv_heads, head_dim, value_dim;
    int64_t state = 0;  // floats; else none, and there are keys and values

    bool operator==(const Shape& o) const {
      return kv_heads == o.kv_heads && head_dim == o.head_dim && value_dim == o.value_dim && state == o.state;
    }
  };
  struct Layer : Shape {
    int64_t group;
    size_t key_bytes, value_bytes;  // of one page and head; a state stands where keys would
    uint8_t* data;
    size_t bytes;
  };
  KvType type;
  std::vector<int64_t> pages;  // of each group
  std::vector<Layer> layers;

  Cache(const std::vector<Shape>& shapes, const std::vector<int64_t>& groups, const std::vector<int64_t>& pages, KvType type);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  void copy_page(int64_t source, int64_t target, int64_t group);
  bool has_states(int64_t group) const;
  float* state(const Layer& l, int64_t page) const { return (float*)keys(l, page, 0); }
  uint8_t* keys(const Layer& l, int64_t page, int64_t head) const {
    return l.data + (size_t)(page * l.kv_heads + head) * (l.key_bytes + l.value_bytes);
  }

 private:
  void release_all();
};

// Rows of a batch, as Batch in ops/base.py describes them; the pointers belong to the caller.
struct StepView {
  int64_t count, wanted, groups, sequences, widest;
  const int32_t *tokens, *positions, *previous, *sequence, *page_table, *prompt_lengths, *rows;
  bool for_prompt;                      // whether a sequence has more than one row
  std::vector<const float*> rotations;  // of ropes whose frequencies depend on the request: [sequences, dim / 2 + 1]

  // The pages of a sequence in a group, in order of position.
  const int32_t* pages(int64_t group, int64_t of) const { return page_table + (group * sequences + of) * widest; }
};

// Weights from rows as stored, `experts` matrices in `raw`; re-encoded if `target` is another format than `stored`.
std::shared_ptr<Matrix> make_matrix(Context&, const std::vector<const uint8_t*>& raw, const Format& stored, const Format& target,
                                    int64_t rows, int64_t columns, bool pack);

}  // namespace linnet
