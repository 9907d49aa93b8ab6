// Matrix products of row-major float weights, read as they are stored (mapped files included).
//
// Lanes run along the columns: each output has sixteen partial sums, columns ascending, added in one order at the end,
// in every tile size. With several tokens, several rows at once share what is loaded of them.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

#if defined(LINNET_AVX512)
constexpr int kRowTile = 4, kTokenTile = 6;
#elif defined(LINNET_NEON)
constexpr int kRowTile = 2, kTokenTile = 2;  // sixteen of 32 registers for sums, twelve for what is multiplied
#else
constexpr int kRowTile = 2, kTokenTile = 3;
#endif

template <class Format>
static inline F load_part(const typename Format::Value* p, int n) {
  typename Format::Value v[16] = {0};
  __builtin_memcpy(v, p, (size_t)n * sizeof v[0]);  // the file may not have aligned them
  return Format::load(v);
}

template <class Format, int rows, int tokens>
static inline void tile(const typename Format::Value* w, int64_t columns, const float* x, float* y, int64_t stride) {
  F sum[rows][tokens];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) sum[r][t] = f_zero();
  }
  int64_t k = 0;
  for (; k + 16 <= columns; k += 16) {
    F value[tokens];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) value[t] = f_load(x + t * columns + k);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      F weight = Format::load(w + r * columns + k);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) sum[r][t] = f_fma(weight, value[t], sum[r][t]);
    }
  }
  // A copy, so that loops over what is left may index it and the sums above stay in registers.
  F end[rows][tokens];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) end[r][t] = sum[r][t];
  }
  if (k < columns) {
    int rest = (int)(columns - k);
    for (int r = 0; r < rows; r++) {
      F weight = load_part<Format>(w + r * columns + k, rest);
      for (int t = 0; t < tokens; t++) end[r][t] = f_fma(weight, f_load_part(x + t * columns + k, rest), end[r][t]);
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int t = 0; t < tokens; t++) y[t * stride + r] = f_sum(end[r][t]);
  }
}

template <class Format, int tokens>
static void run(const void* weights, int rows, int64_t columns, const float* x, int wanted, float* y, int64_t stride) {
  if (wanted < tokens) {
    if constexpr (tokens > 1) run<Format, tokens - 1>(weights, rows, columns, x, wanted, y, stride);
    return;
  }
  // One token waits for memory, which gives most to who reads it in order.
  constexpr int row_tile = tokens == 1 ? 1 : kRowTile;
  const auto* w = (const typename Format::Value*)weights;
  int r = 0;
  for (; r + row_tile <= rows; r += row_tile) tile<Format, row_tile, tokens>(w + r * columns, columns, x, y + r, stride);
  for (; r < rows; r++) tile<Format, 1, tokens>(w + r * columns, columns, x, y + r, stride);
}

void set_float_kernels(Kernels& k) {
  k.float_tile_tokens = kTokenTile;
  k.linear_f32 = run<Float32, kTokenTile>;
  k.linear_f16 = run<Float16, kTokenTile>;
  k.linear_bf16 = run<BFloat16, kTokenTile>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
