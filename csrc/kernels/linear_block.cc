// Products of weights in blocks of 32 columns with Q8_0 activations: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
#include "block_tile.h"

namespace linnet {
namespace LINNET_ISA {

struct Block32 {
  template <int tokens>
  using Activation = ActivationQ8_0<tokens>;
};

// Adds one group of four columns to every token's accumulator.
template <int tokens>
static inline void add_group(Acc* acc, const B& bytes, const int8_t (*q)[32], int column) {
  LINNET_TOKENS {
    acc_add(acc[t], bytes, q[t] + column);
    LINNET_KEEP(acc[t]);
  }
}
template <int tokens>
static inline void add_group_signed(Acc* acc, const B& bytes, const int8_t (*q)[32], int column) {
  Signed ready = signed_bytes(bytes);
  LINNET_TOKENS {
    acc_add_signed(acc[t], ready, q[t] + column);
    LINNET_KEEP(acc[t]);
  }
}

template <int tokens>
static inline void scale_sums(F* total, F d, const float* x, const Acc* acc) {
  LINNET_TOKENS total[t] = f_fma(f_from_i(acc_sum(acc[t])), f_mul(d, f_set(x[t])), total[t]);
}
template <int tokens>
static inline void scale_sums_signed(F* total, F d, const float* x, const Acc* acc) {
  LINNET_TOKENS total[t] = f_fma(f_from_i(acc_sum_signed(acc[t])), f_mul(d, f_set(x[t])), total[t]);
}
template <int tokens>
static inline void add_mins(F* total, F m, const float* sum) {
  LINNET_TOKENS total[t] = f_fma(m, f_set(sum[t]), total[t]);
}

template <int tokens>
static inline void nibble_groups(Acc* acc, const uint8_t (*weights)[64], const int8_t (*q)[32]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    B bytes = b_load(weights[i]);
    add_group<tokens>(acc, b_field<0, 0, 4>(bytes), q, 8 * i);
    add_group<tokens>(acc, b_field<4, 0, 4>(bytes), q, 8 * i + 4);
  }
}

// Nibbles with a fifth bit from `high`: group g's at bit g.
template <int tokens>
static inline void five_bit_groups(Acc* acc, const uint8_t (*weights)[64], const B& high, const int8_t (*q)[32]) {
  B w0 = b_load(weights[0]), w1 = b_load(weights[1]), w2 = b_load(weights[2]), w3 = b_load(weights[3]);
  add_group<tokens>(acc, b_or(b_field<0, 0, 4>(w0), b_field<0, 4, 1>(high)), q, 0);
  add_group<tokens>(acc, b_or(b_field<4, 0, 4>(w0), b_field<1, 4, 1>(high)), q, 4);
  add_group<tokens>(acc, b_or(b_field<0, 0, 4>(w1), b_field<2, 4, 1>(high)), q, 8);
  add_group<tokens>(acc, b_or(b_field<4, 0, 4>(w1), b_field<3, 4, 1>(high)), q, 12);
  add_group<tokens>(acc, b_or(b_field<0, 0, 4>(w2), b_field<4, 4, 1>(high)), q, 16);
  add_group<tokens>(acc, b_or(b_field<4, 0, 4>(w2), b_field<5, 4, 1>(high)), q, 20);
  add_group<tokens>(acc, b_or(b_field<0, 0, 4>(w3), b_field<6, 4, 1>(high)), q, 24);
  add_group<tokens>(acc, b_or(b_field<4, 0, 4>(w3), b_field<7, 4, 1>(high)), q, 28);
}

template <int tokens>
static inline void level_groups(Acc* acc, const uint8_t (*weights)[64], const int8_t* levels, const int8_t (*q)[32]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    B bytes = b_load(weights[i]);
    add_group_signed<tokens>(acc, b_lookup(b_field<0, 0, 4>(bytes), levels), q, 8 * i);
    add_group_signed<tokens>(acc, b_lookup(b_field<4, 0, 4>(bytes), levels), q, 8 * i + 4);
  }
}

struct Q4_0 : Block32 {
  using Block = PackedQ4_0;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_start<0>(&x[b].offset[t]);
      nibble_groups<tokens>(acc, w[b].q, x[b].q);
      scale_sums<tokens>(total, f_load_f16(w[b].d), x[b].d, acc);
    }
  }
};

struct Q4_1 : Block32 {
  using Block = PackedQ4_1;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_zero();
      nibble_groups<tokens>(acc, w[b].q, x[b].q);
      scale_sums<tokens>(total, f_load_f16(w[b].d), x[b].d, acc);
      add_mins<tokens>(total, f_load_f16(w[b].m), x[b].sum);
    }
  }
};

struct Q5_0 : Block32 {
  using Block = PackedQ5_0;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_start<1>(&x[b].offset[t]);
      five_bit_groups<tokens>(acc, w[b].q, b_load(w[b].high), x[b].q);
      scale_sums<tokens>(total, f_load_f16(w[b].d), x[b].d, acc);
    }
  }
};

// d * q + m = d * (q - 16) + (m + 16 d): five bits unsigned would overflow AVX2's sums, centred ones do not.
struct Q5_1 : Block32 {
  using Block = PackedQ5_1;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_start<1>(&x[b].offset[t]);
      five_bit_groups<tokens>(acc, w[b].q, b_load(w[b].high), x[b].q);
      F d = f_load_f16(w[b].d);
      scale_sums<tokens>(total, d, x[b].d, acc);
      add_mins<tokens>(total, f_fma(d, f_set(16.0f), f_load_f16(w[b].m)), x[b].sum);
    }
  }
};

struct Q8_0 : Block32 {
  using Block = PackedQ8_0;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_start_signed(&x[b].offset[t]);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) add_group_signed<tokens>(acc, b_load(w[b].q[i]), x[b].q, 4 * i);
      scale_sums_signed<tokens>(total, f_load_f16(w[b].d), x[b].d, acc);
    }
  }
};

struct IQ4_NL : Block32 {
  using Block = PackedIQ4_NL;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_start_signed(&x[b].offset[t]);
      level_groups<tokens>(acc, w[b].q, kIQ4Levels, x[b].q);
      scale_sums_signed<tokens>(total, f_load_f16(w[b].d), x[b].d, acc);
    }
  }
};

struct MXFP4 : Block32 {
  using Block = PackedMXFP4;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_0<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      Acc acc[tokens];
      LINNET_TOKENS acc[t] = acc_start_signed(&x[b].offset[t]);
      level_groups<tokens>(acc, w[b].q, kE2M1Doubled, x[b].q);
      scale_sums_signed<tokens>(total, f_load_e8m0_half(w[b].e), x[b].d, acc);
    }
  }
};

void set_block_kernels(Kernels& k) {
  k.tile_tokens = kTile;
  k.block_linear[(int)Type::Q4_0] = run_tile<Q4_0, kTile>;
  k.block_linear[(int)Type::Q4_1] = run_tile<Q4_1, kTile>;
  k.block_linear[(int)Type::Q5_0] = run_tile<Q5_0, kTile>;
  k.block_linear[(int)Type::Q5_1] = run_tile<Q5_1, kTile>;
  k.block_linear[(int)Type::Q8_0] = run_tile<Q8_0, kTile>;
  k.block_linear[(int)Type::IQ4_NL] = run_tile<IQ4_NL, kTile>;
  k.block_linear[(int)Type::MXFP4] = run_tile<MXFP4, kTile>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
