// The table of kernels that one instruction set provides. Everything above it is compiled for the baseline only.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../quant/packed.h"

namespace linnet {

constexpr int kMostGroups = 2, kMostTokens = 4;  // of any instruction set's block tiles
constexpr int kTypes = 40;                       // one more than the largest GGUF type id with kernels
constexpr int kMostTaps = 64;                    // of a convolution: MAX_TAPS in arch/check.py
constexpr int kDrawBlock = 128;                  // logits of which the draw of a token looks at the largest first
constexpr int kPage = 32;                        // positions per KV page: PAGE_SIZE in ops/base.py

// Ids in the order of Norm.kind's, Activation's and KV_DTYPES' choices (arch/spec.py, ops/base.py).
enum Norm : int { kRmsNorm, kLayerNorm };
enum Activation : int { kSilu, kGelu, kGeluTanh, kRelu, kReluSquared, kSigmoid, kClampedSwiglu, kActivations };
enum class KvType : int { F16, BF16, Q8_0, F32 };

// What every query row of a layer shares.
struct AttentionShape {
  int head_dim, value_dim;  // of a query and key head; of a value head
  float scale, softcap;     // softcap 0: none
  KvType type;
};

// Keys of one page and head, [head_dim][kPage], and its values, [kPage][value_dim rounded up to 16], of KvType. After Q8_0's
// integers come the float16 scales of blocks of 32 entries of a head: [ceil(head_dim / 32)][kPage], [kPage][ceil(value_dim / 32)].
struct PageView {
  const void* keys;
  const void* values;
};

// One query row of an attention tile: attends to positions [first, last] of its sequence.
struct QueryRow {
  const float* q;  // [head_dim]
  float* out;      // [value_dim]
  int64_t first, last;
  int64_t position;  // its own, which `slope` measures from
  float slope;       // ALiBi's; 0: none
  float sink;        // a score that takes part in the softmax and has no value; -infinity: none
};

// A token's step of the gated delta rule in some columns of a head's state S, rows of which are `stride` apart.
struct DeltaRule {
  const float *q, *k;    // [key_dim]
  float kept, strength;  // what S is multiplied by, and how much of the error goes into it
  int key_dim;
  int64_t stride;
};

struct Kernels {
  const char* name;
  int tile_groups;        // most groups of sixteen rows that one call of a block kernel takes
  int tile_tokens;        // most tokens that it takes; rows are quantized in tiles of as many
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

  // One row of weights to be stored (csrc/quantize): float16 and bfloat16 to float32; the largest magnitude, NaN where a value is not
  // finite; what each value's squared error weighs; and by GGUF type id, columns (whole blocks of them) to raw blocks.
  void (*widen_f16)(const void* row, int64_t columns, float* x);
  void (*widen_bf16)(const void* row, int64_t columns, float* x);
  float (*extent)(const float* x, int64_t columns);
  void (*weigh)(const float* x, const float* importance, int64_t columns, float* weights);
  void (*encode[kTypes])(const float* x, const float* weights, int64_t columns, uint8_t* raw);

  // Row-wise operations; y may be the same row as an input.
  // (x - mean) / sqrt(variance + epsilon) or x / sqrt(mean square + epsilon), times weight, plus bias; null: without.
  void (*norm)(int kind, const float* x, const float* weight, const float* bias, float epsilon, int64_t width, float* y);
  // Rotates entries [start, start + dim) of a head, in pairs half a `dim` apart or side by side; copies the others.
  void (*rotate)(const float* x, const float* cosine, const float* sine, int start, int dim, int head_dim, bool interleaved, float* y);
  void (*activate[kActivations])(const float* x, int64_t count, float* y);              // null for those that are only gates
  void (*gate[kActivations])(const float* g, const float* u, int64_t count, float* y);  // act(g) * u
  // a * a_scale + b * b_scale: with scales of 1 the plain sum.
  void (*add)(const float* a, float a_scale, const float* b, float b_scale, int64_t count, float* y);
  void (*scale)(const float* x, float factor, int64_t count, float* y);
  void (*softcap)(const float* x, float cap, int64_t count, float* y);  // cap * tanh(x / cap)

  // The draw of a token: the least and the largest number of each block of kDrawBlock logits; exp((logit - largest) / temperature), 0 where
  // that is below e^-708; and (largest - logit) * scale cut to an integer, `last` at most.
  void (*extremes)(const float* logits, int64_t blocks, float* least, float* largest);
  void (*draw_weights)(const float* logits, int64_t count, float largest, double inverse_temperature, double* weights);
  void (*draw_bins)(const float* logits, int64_t count, float largest, float scale, int last, uint16_t* bins);

  // Stores one row's key and value of one head into its page slot.
  void (*store_kv)(const AttentionShape& shape, const float* k, const float* v, int slot, void* keys, void* values);
  // Online softmax of `count` query rows of one KV head over pages first_page.. of one sequence. scratch: attend_scratch floats.
  void (*attend)(const AttentionShape& shape, const QueryRow* rows, int count, const PageView* pages, int64_t page_count,
                 int64_t first_page, float* scratch);

  // y[i] = the sum of weights[tap * stride + i] * inputs[tap][i], plus bias[i]; bias null: without.
  void (*convolve)(const float* const* inputs, int taps, const float* weights, int64_t stride, const float* bias, int64_t count, float* y);
  // S = kept S; S += k (strength (v - k S))^T; out = q S: `columns` of S, v and out.
  void (*delta_rule)(const DeltaRule& rule, float* state, const float* v, int columns, float* out);
};

namespace scalar {
const Kernels& table();
}
#if defined(LINNET_X86)
namespace avx2 {
const Kernels& table();
}
namespace avxvnni {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}
#elif defined(LINNET_ARM64)
namespace neon {
const Kernels& table();
}
#endif

// static, as everything that kernels compiled for different instruction sets have in common (see simd.h).

// A head's values are stored in whole vectors.
static constexpr int padded_values(int value_dim) { return (value_dim + 15) / 16 * 16; }
static constexpr int kv_blocks(int dim) { return (dim + 31) / 32; }

// Bytes of one page and head. Keys come first; both are whole cache lines apart where the cache begins on one.
static constexpr size_t kv_bytes(KvType type, int entries, int dim) {
  return kPage * (type == KvType::F32    ? 4 * (size_t)entries
                  : type == KvType::Q8_0 ? (size_t)entries + 2 * (size_t)kv_blocks(dim)
                                         : 2 * (size_t)entries);
}
static constexpr size_t key_bytes(const AttentionShape& s) { return kv_bytes(s.type, s.head_dim, s.head_dim); }
static constexpr size_t value_bytes(const AttentionShape& s) { return kv_bytes(s.type, padded_values(s.value_dim), s.value_dim); }

// Floats of a query row's running state: its sums of values, sixteen lanes of the sum of weights, the largest score in sixteen lanes.
static constexpr size_t attend_state(const AttentionShape& s) { return (size_t)padded_values(s.value_dim) + 32; }

// Floats of a page in float32 and of the scales of its values.
static constexpr size_t page_floats(const AttentionShape& s) {
  return kPage * (size_t)(s.head_dim + padded_values(s.value_dim) + kv_blocks(s.value_dim));
}

// Floats of scratch that `attend` needs: a page, every row's state, a list of rows, and what begins them on a cache line.
static constexpr size_t attend_scratch(const AttentionShape& s, int count) {
  return 16 + page_floats(s) + (size_t)count * (attend_state(s) + 4);
}

}  // namespace linnet
