// What every block kernel shares: the tile of outputs, and the choice of its size at run time.
//
// A tile is `groups` x 16 rows by `tokens` tokens. Integers are exact within a block; each output then takes the same
// floating-point operations per block, blocks ascending, in every tile size: a token's result does not depend on how
// many tokens or rows share the tile.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// Two groups of rows share each broadcast of activations where registers allow: on Zen 5 that is 370 against 217
// G multiply-adds/s a core (32 rows x 4 tokens against 16 x 8), because the loads were the limit.
#if defined(LINNET_AVX512)
constexpr int kGroups = 2, kTokens = 4;
#elif defined(LINNET_NEON)
constexpr int kGroups = 1, kTokens = 3;  // sums and totals of sixteen rows by three tokens: 24 of 32 registers
#elif !defined(LINNET_AVX2)
constexpr int kGroups = 1, kTokens = 3;  // plain C++: as NEON, so that tests on every processor meet a tile that is not the largest
#else
// Sixteen registers do not hold the sums and the totals of four tokens: some spill, once a block, and it still pays to share
// broadcasts and unpacking. (Halves of eight rows spill nothing and were 10 to 14% slower in Q4_0 and Q4_K on Zen 4.)
constexpr int kGroups = 1, kTokens = 4;
#endif

static_assert(kGroups <= kMostGroups && kTokens <= kMostTokens, "callers hold a partial tile in an array of the most");

#define LINNET_UNROLL _Pragma("GCC unroll 8")
#define LINNET_EACH_OUTPUT(groups, tokens) LINNET_UNROLL for (int g = 0; g < (groups); g++) LINNET_UNROLL for (int t = 0; t < (tokens); t++)

// Adds four columns of every group of rows to every token's accumulator: one broadcast serves all groups.
template <bool is_signed, int groups, int tokens, int columns>
static inline void add_columns(Acc (&acc)[groups][tokens], const B (&bytes)[groups], const int8_t (&q)[tokens][columns], int column) {
  if constexpr (is_signed) {
    Signed ready[groups];
    LINNET_UNROLL for (int g = 0; g < groups; g++) ready[g] = signed_bytes(bytes[g]);
    LINNET_UNROLL for (int t = 0; t < tokens; t++) {
      LINNET_UNROLL for (int g = 0; g < groups; g++) {
        acc_add_signed(acc[g][t], ready[g], q[t] + column);
        LINNET_KEEP(acc[g][t]);
      }
    }
  } else {
    LINNET_UNROLL for (int t = 0; t < tokens; t++) {
      LINNET_UNROLL for (int g = 0; g < groups; g++) {
        acc_add(acc[g][t], bytes[g], q[t] + column);
        LINNET_KEEP(acc[g][t]);
      }
    }
  }
}

// Asks for the cache lines of a block that lies `kAhead` bytes further on: the hardware's prefetchers stop at pages of
// 4 KB and fall behind where a group's rows end.
constexpr int kAhead = 4096;
// Blocks of eight bits have so little arithmetic to a line that asking costs more than it gains: on Zen 4, 43 against 37 tokens/s.
template <class Block>
constexpr bool kAsksAhead = sizeof(Block) < 512;
// parts: in how many calls the lines of a block are asked for; `part` is this one's number. A core holds few misses at a
// time, so that a large block is better asked for piece by piece, between the arithmetic.
template <int groups, int parts = 1, class Block>
static inline void prefetch(const Block* w, int64_t count, int part = 0) {
  constexpr int lines = ((sizeof(Block) + 63) / 64 + parts - 1) / parts;
  LINNET_UNROLL for (int g = 0; g < groups; g++) {
    const char* from = (const char*)(w + g * count) + kAhead + 64 * lines * part;
    asm("" : "+r"(from));
    _Pragma("GCC unroll 64") for (int line = 0; line < lines; line++) __builtin_prefetch(from + 64 * line);
  }
}

template <bool is_signed>
static inline I sum_of(const Acc& acc) {
  return is_signed ? acc_sum_signed(acc) : acc_sum(acc);
}

// Runs Tile<Format>::run<groups, tokens>(blocks, count, activations, total) for the wanted size and stores the outputs.
// Group g's blocks begin at blocks + g * count.
template <class Tile, int groups, int tokens>
static inline void run_tile(const void* w, int64_t count, const void* x, float* y, int64_t stride) {
  F total[groups][tokens];
  LINNET_EACH_OUTPUT(groups, tokens) total[g][t] = f_zero();
  using Activation = typename Tile::template Activation<tokens>;
  Tile::template run<groups, tokens>((const typename Tile::Block*)w, count, (const Activation*)x, total);
  LINNET_EACH_OUTPUT(groups, tokens) f_store(y + t * stride + kRows * g, total[g][t]);
}

template <class Tile, int groups = kGroups, int tokens = kTokens>
static void choose_tile(const void* w, int64_t count, int wanted_groups, const void* x, int wanted_tokens, float* y, int64_t stride) {
  if (wanted_groups < groups) {
    if constexpr (groups > 1) choose_tile<Tile, groups - 1, tokens>(w, count, wanted_groups, x, wanted_tokens, y, stride);
  } else if (wanted_tokens < tokens) {
    if constexpr (tokens > 1) choose_tile<Tile, groups, tokens - 1>(w, count, wanted_groups, x, wanted_tokens, y, stride);
  } else {
    run_tile<Tile, groups, tokens>(w, count, x, y, stride);
  }
}

}  // namespace LINNET_ISA
}  // namespace linnet
