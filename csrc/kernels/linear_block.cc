// Matrix products of packed block weights (16 rows) with quantized activations (1 to kTile tokens).
//
// Integers are exact within a block; each output then takes one fused multiply-add per block, blocks ascending, in
// every tile size: a token's result does not depend on how many tokens share the tile.
#include "../quant/packed.h"
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

#if defined(LINNET_AVX512)
constexpr int kTile = 8;
#else
constexpr int kTile = 4;
#endif

template <int tokens>
static inline void store_tile(const F* total, float* y, int64_t stride) {
#pragma GCC unroll 8
  for (int t = 0; t < tokens; t++) f_store(y + t * stride, total[t]);
}

struct Q4_0 {
  using Block = PackedQ4_0;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, float* y, int64_t stride) {
    F total[tokens];
    for (int t = 0; t < tokens; t++) total[t] = f_zero();
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) acc[t] = acc_start(&x[b].offset[t]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        B bytes = b_load(w[b].q[i]), low = b_low_nibbles(bytes), high = b_high_nibbles(bytes);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
          acc_add(acc[t], low, x[b].q[t] + 8 * i);
          LINNET_KEEP(acc[t]);
          acc_add(acc[t], high, x[b].q[t] + 8 * i + 4);
          LINNET_KEEP(acc[t]);
        }
      }
      F d = f_load_f16(w[b].d);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) total[t] = f_fma(f_from_i(acc_sum(acc[t])), f_mul(d, f_set(x[b].d[t])), total[t]);
    }
    store_tile<tokens>(total, y, stride);
  }
  template <int tokens>
  using Activation = ActivationQ8_0<tokens>;
};

struct Q8_0 {
  using Block = PackedQ8_0;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, float* y, int64_t stride) {
    F total[tokens];
    for (int t = 0; t < tokens; t++) total[t] = f_zero();
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) acc[t] = acc_start_signed(&x[b].offset[t]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        Signed bytes = signed_bytes(b_load(w[b].q[i]));
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
          acc_add_signed(acc[t], bytes, x[b].q[t] + 4 * i);
          LINNET_KEEP(acc[t]);
        }
      }
      F d = f_load_f16(w[b].d);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) total[t] = f_fma(f_from_i(acc_sum_signed(acc[t])), f_mul(d, f_set(x[b].d[t])), total[t]);
    }
    store_tile<tokens>(total, y, stride);
  }
  template <int tokens>
  using Activation = ActivationQ8_0<tokens>;
};

struct Q4_K {
  using Block = PackedQ4_K;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, float* y, int64_t stride) {
    F total[tokens];
    for (int t = 0; t < tokens; t++) total[t] = f_zero();
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens], minimum[tokens];
      for (int t = 0; t < tokens; t++) sum[t] = minimum[t] = i_zero();
      for (int s = 0; s < 8; s++) {
        Acc acc[tokens];
        for (int t = 0; t < tokens; t++) acc[t] = acc_zero();
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          B bytes = b_load(w[b].q[s][i]), low = b_low_nibbles(bytes), high = b_high_nibbles(bytes);
#pragma GCC unroll 8
          for (int t = 0; t < tokens; t++) {
            acc_add(acc[t], low, x[b].q[t] + 32 * s + 8 * i);
            LINNET_KEEP(acc[t]);
            acc_add(acc[t], high, x[b].q[t] + 32 * s + 8 * i + 4);
            LINNET_KEEP(acc[t]);
          }
        }
        Scale scale = scale_u8(w[b].scale[s]);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) sum[t] = acc_scale(sum[t], acc[t], scale);
      }
      for (int j = 0; j < 4; j++) {
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) minimum[t] = i_add_pairs(minimum[t], w[b].min[j][0], x[b].sum[t] + 2 * j);
      }
      F d = f_load_f16(w[b].d), dmin = f_load_f16(w[b].dmin);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) {
        F scale = f_set(x[b].d[t]);
        total[t] = f_fma(f_from_i(sum[t]), f_mul(d, scale), total[t]);
        total[t] = f_fma(f_from_i(minimum[t]), f_mul(dmin, f_sub(f_zero(), scale)), total[t]);
      }
    }
    store_tile<tokens>(total, y, stride);
  }
  template <int tokens>
  using Activation = ActivationQ8_K<tokens>;
};

struct Q6_K {
  using Block = PackedQ6_K;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, float* y, int64_t stride) {
    F total[tokens];
    for (int t = 0; t < tokens; t++) total[t] = f_zero();
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens];
      for (int t = 0; t < tokens; t++) sum[t] = i_zero();
      for (int s = 0; s < 16; s++) {
        B first = b_load(w[b].low[s][0]), second = b_load(w[b].low[s][1]), high = b_load(w[b].high[s]);
        B group[4] = {b_or(b_low_nibbles(first), b_two_bits<0>(high)), b_or(b_high_nibbles(first), b_two_bits<1>(high)),
                      b_or(b_low_nibbles(second), b_two_bits<2>(high)), b_or(b_high_nibbles(second), b_two_bits<3>(high))};
        Scale scale = scale_i8(w[b].scale[s]);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
          Acc acc = acc_start(&x[b].offset[s][t]);
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) {
            acc_add(acc, group[i], x[b].q[t] + 16 * s + 4 * i);
            LINNET_KEEP(acc);
          }
          sum[t] = acc_scale(sum[t], acc, scale);
        }
      }
      F d = f_load_f16(w[b].d);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; t++) total[t] = f_fma(f_from_i(sum[t]), f_mul(d, f_set(x[b].d[t])), total[t]);
    }
    store_tile<tokens>(total, y, stride);
  }
  template <int tokens>
  using Activation = ActivationQ8_K<tokens>;
};

template <class Format, int tokens>
static void run_tile(const void* w, int64_t count, const void* x, int wanted, float* y, int64_t stride) {
  if (wanted == tokens) {
    using Activation = typename Format::template Activation<tokens>;
    Format::template run<tokens>((const typename Format::Block*)w, count, (const Activation*)x, y, stride);
  } else if constexpr (tokens > 1) {
    run_tile<Format, tokens - 1>(w, count, x, wanted, y, stride);
  }
}

void set_block_kernels(Kernels& k) {
  k.tile_tokens = kTile;
  k.linear_q4_0 = run_tile<Q4_0, kTile>;
  k.linear_q8_0 = run_tile<Q8_0, kTile>;
  k.linear_q4_k = run_tile<Q4_K, kTile>;
  k.linear_q6_k = run_tile<Q6_K, kTile>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
