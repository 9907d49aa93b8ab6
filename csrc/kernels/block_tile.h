// What every block kernel shares: the tile of outputs, and the choice of the tile's size at run time.
//
// Integers are exact within a block; each output then takes the same floating-point operations per block, blocks
// ascending, in every tile size: a token's result does not depend on how many tokens share the tile.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

#if defined(LINNET_AVX512)
constexpr int kTile = 8;
#else
constexpr int kTile = 4;
#endif

#define LINNET_UNROLL _Pragma("GCC unroll 8")
#define LINNET_TOKENS LINNET_UNROLL for (int t = 0; t < tokens; t++)

template <int tokens>
static inline void clear(F* total) {
  LINNET_TOKENS total[t] = f_zero();
}

template <int tokens>
static inline void store_tile(const F* total, float* y, int64_t stride) {
  LINNET_TOKENS f_store(y + t * stride, total[t]);
}

// Calls Format::run<tokens>(blocks, count, activations, total) for the wanted tile size and stores its outputs.
template <class Format, int tokens>
static void run_tile(const void* w, int64_t count, const void* x, int wanted, float* y, int64_t stride) {
  if (wanted == tokens) {
    F total[tokens];
    clear<tokens>(total);
    using Activation = typename Format::template Activation<tokens>;
    Format::template run<tokens>((const typename Format::Block*)w, count, (const Activation*)x, total);
    store_tile<tokens>(total, y, stride);
  } else if constexpr (tokens > 1) {
    run_tile<Format, tokens - 1>(w, count, x, wanted, y, stride);
  }
}

}  // namespace LINNET_ISA
}  // namespace linnet
