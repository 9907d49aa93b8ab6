// The table of kernels that one instruction set provides. Everything above it is compiled for the baseline only.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../quant/packed.h"

namespace linnet {

constexpr int kMostGroups = 2, kMostTokens = 4;  // of any instruction set's block tiles
constexpr int kTypes = 40;                       // one more than the largest GGUF type id with kernels
constexpr int kPage = 32;                        // positions per KV page: PAGE_SIZE in ops/base.py

// Keys of one page and head: [head_dim][kPage]; values [kPage][head_dim rounded up to 16]; float16 or float32.
struct PageView {
  const void* keys;
  const void* values;
};

// One query row of an attention tile: attends to positions [first, last] of its sequence.
struct QueryRow {
  const float* q;  // [head_dim]
  float* out;      // [head_dim]
  int64_t first, last;
};

struct Kernels {
  const char* name;
  int tile_groups;        // most groups of sixteen rows that one call of a block kernel takes
  int tile_tokens;        // most tokens that it takes
  int float_tile_tokens;  // the same for float weights

  // y[t * stride + r] for 16 * groups rows; group g's blocks begin at blocks + g * count; activations as packed by quantize_*.
  using BlockLinear = void (*)(const void* blocks, int64_t count, int groups, const void* activations, int tokens, float* y,
                               int64_t stride);
  BlockLinear block_linear[kTypes];  // by GGUF type id

  // y[t * stride + r] for `rows` rows of row-major weights [rows][columns].
  using FloatLinear = void (*)(const void* weights, int rows, int64_t columns, const float* x, int tokens, float* y, int64_t stride);
  FloatLinear linear_f32, linear_f16, linear_bf16;

  // Quantizes `tokens` rows x[columns] into a tile of activation blocks.
  void (*quantize_q8_0)(const float* x, int64_t columns, int tokens, void* tile);
  void (*quantize_q8_k)(const float* x, int64_t columns, int tokens, void* tile);

  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t width, float* y);
  // Rotates a head in place of a copy: y from x, first `dim` entries, half-split or interleaved pairs.
  void (*rotate)(const float* x, const float* cosine, const float* sine, int dim, int head_dim, bool interleaved, float* y);
  void (*add)(const float* a, const float* b, int64_t count, float* y);
  void (*activate)(const float* x, int activation, int64_t count, float* y);
  void (*gate)(const float* g, const float* u, int activation, int64_t count, float* y);

  // Stores one row's key and value of one head into its page slot.
  void (*store_kv)(const float* k, const float* v, int head_dim, int slot, bool half, void* keys, void* values);
  // Online softmax of up to `count` query rows of one KV head over pages first_page.. of one sequence.
  void (*attend)(const QueryRow* rows, int count, const PageView* pages, int64_t page_count, int64_t first_page, int head_dim, float scale,
                 bool half, float* scratch);
};

namespace scalar {
const Kernels& table();
}
#if defined(LINNET_X86)
namespace avx2 {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}
#endif

// Floats of scratch that `attend` needs: two pages in float32 and one row of running state per query row.
inline size_t attend_scratch(int head_dim, int count) {
  size_t padded = (size_t)(head_dim + 15) / 16 * 16;
  return 2 * padded * kPage + (size_t)count * (padded + 2);
}

}  // namespace linnet
