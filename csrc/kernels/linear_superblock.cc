// Products of weights in super-blocks of 256 columns with Q8_K activations: Q2_K to Q6_K and IQ4_XS.
//
// Sub-blocks are scaled and summed as integers; a super-block costs one conversion and one multiply-add an output
// (two where the format has minima).
#include "block_tile.h"

namespace linnet {
namespace LINNET_ISA {

struct SuperBlock {
  template <int tokens>
  using Activation = ActivationQ8_K<tokens>;
};

template <int tokens>
static inline void add_group(Acc* acc, const B& bytes, const int8_t (*q)[256], int column) {
  LINNET_TOKENS {
    acc_add(acc[t], bytes, q[t] + column);
    LINNET_KEEP(acc[t]);
  }
}

template <int tokens>
static inline void clear(Acc* acc) {
  LINNET_TOKENS acc[t] = acc_zero();
}

template <int tokens>
static inline void add_scaled(I* sum, const Acc* acc, const Scale& scale) {
  LINNET_TOKENS sum[t] = acc_scale(sum[t], acc[t], scale);
}

template <int tokens>
static inline void scale_sums(F* total, F d, const float* x, const I* sum) {
  LINNET_TOKENS total[t] = f_fma(f_from_i(sum[t]), f_mul(d, f_set(x[t])), total[t]);
}

// total += d * x * sum - dmin * x * minimum
template <int tokens>
static inline void scale_sums_and_mins(F* total, F d, F dmin, const float* x, const I* sum, const I* minimum) {
  LINNET_TOKENS {
    F scale = f_set(x[t]);
    total[t] = f_fma(f_from_i(sum[t]), f_mul(d, scale), total[t]);
    total[t] = f_fma(f_from_i(minimum[t]), f_mul(dmin, f_sub(f_zero(), scale)), total[t]);
  }
}

struct Q2_K : SuperBlock {
  using Block = PackedQ2_K;
  template <int tokens, int odd>
  static inline void sub_block(const Block& w, int s, const ActivationQ8_K<tokens>& x, I* sum) {
    Acc acc[tokens];
    clear<tokens>(acc);
    B bytes = b_load(w.q[s]);
    add_group<tokens>(acc, b_field<0, 0, 2>(bytes), x.q, 16 * s);
    add_group<tokens>(acc, b_field<2, 0, 2>(bytes), x.q, 16 * s + 4);
    add_group<tokens>(acc, b_field<4, 0, 2>(bytes), x.q, 16 * s + 8);
    add_group<tokens>(acc, b_field<6, 0, 2>(bytes), x.q, 16 * s + 12);
    add_scaled<tokens>(sum, acc, scale_nibbles<odd>(w.scale[s / 2][0]));
  }
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens], minimum[tokens];
      LINNET_TOKENS sum[t] = minimum[t] = i_zero();
      for (int j = 0; j < 8; j++) {
        sub_block<tokens, 0>(w[b], 2 * j, x[b], sum);
        sub_block<tokens, 1>(w[b], 2 * j + 1, x[b], sum);
        LINNET_TOKENS minimum[t] = i_add_high_nibble_pairs(minimum[t], w[b].scale[j][0], x[b].half_sum[t] + 2 * j);
      }
      scale_sums_and_mins<tokens>(total, f_load_f16(w[b].d), f_load_f16(w[b].dmin), x[b].d, sum, minimum);
    }
  }
};

struct Q3_K : SuperBlock {
  using Block = PackedQ3_K;
  // `first` is 0 or 4: where this sub-block's groups stand in the bits of `high`.
  template <int tokens, int first>
  static inline void sub_block(const Block& w, int s, const B& high, const ActivationQ8_K<tokens>& x, I* sum) {
    Acc acc[tokens];
    LINNET_TOKENS acc[t] = acc_start<-3>(&x.offset[s][t]);  // -4 * sum from -32 * sum
    B bytes = b_load(w.q[s]);
    add_group<tokens>(acc, b_or(b_field<0, 0, 2>(bytes), b_field<first, 2, 1>(high)), x.q, 16 * s);
    add_group<tokens>(acc, b_or(b_field<2, 0, 2>(bytes), b_field<first + 1, 2, 1>(high)), x.q, 16 * s + 4);
    add_group<tokens>(acc, b_or(b_field<4, 0, 2>(bytes), b_field<first + 2, 2, 1>(high)), x.q, 16 * s + 8);
    add_group<tokens>(acc, b_or(b_field<6, 0, 2>(bytes), b_field<first + 3, 2, 1>(high)), x.q, 16 * s + 12);
    add_scaled<tokens>(sum, acc, scale_i8(w.scale[s]));
  }
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens];
      LINNET_TOKENS sum[t] = i_zero();
      for (int j = 0; j < 8; j++) {
        B high = b_load(w[b].high[j]);
        sub_block<tokens, 0>(w[b], 2 * j, high, x[b], sum);
        sub_block<tokens, 4>(w[b], 2 * j + 1, high, x[b], sum);
      }
      scale_sums<tokens>(total, f_load_f16(w[b].d), x[b].d, sum);
    }
  }
};

template <int tokens>
static inline void add_mins(I* minimum, const uint8_t (*min)[16][2], const int16_t (*sum)[8]) {
  for (int j = 0; j < 4; j++) {
    LINNET_TOKENS minimum[t] = i_add_pairs(minimum[t], min[j][0], sum[t] + 2 * j);
  }
}

struct Q4_K : SuperBlock {
  using Block = PackedQ4_K;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens], minimum[tokens];
      LINNET_TOKENS sum[t] = minimum[t] = i_zero();
      for (int s = 0; s < 8; s++) {
        Acc acc[tokens];
        clear<tokens>(acc);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          B bytes = b_load(w[b].q[s][i]);
          add_group<tokens>(acc, b_field<0, 0, 4>(bytes), x[b].q, 32 * s + 8 * i);
          add_group<tokens>(acc, b_field<4, 0, 4>(bytes), x[b].q, 32 * s + 8 * i + 4);
        }
        add_scaled<tokens>(sum, acc, scale_u8(w[b].scale[s]));
      }
      add_mins<tokens>(minimum, w[b].min, x[b].sum);
      scale_sums_and_mins<tokens>(total, f_load_f16(w[b].d), f_load_f16(w[b].dmin), x[b].d, sum, minimum);
    }
  }
};

struct Q5_K : SuperBlock {
  using Block = PackedQ5_K;
  // Two of the four bytes of nibbles: sixteen columns, as many as five bits leave room for in int16.
  template <int tokens, int first>
  static inline void half(const uint8_t (*weights)[64], const B& high, const int8_t (*q)[256], int column, Acc* acc) {
    B w0 = b_load(weights[0]), w1 = b_load(weights[1]);
    add_group<tokens>(acc, b_or(b_field<0, 0, 4>(w0), b_field<first, 4, 1>(high)), q, column);
    add_group<tokens>(acc, b_or(b_field<4, 0, 4>(w0), b_field<first + 1, 4, 1>(high)), q, column + 4);
    add_group<tokens>(acc, b_or(b_field<0, 0, 4>(w1), b_field<first + 2, 4, 1>(high)), q, column + 8);
    add_group<tokens>(acc, b_or(b_field<4, 0, 4>(w1), b_field<first + 3, 4, 1>(high)), q, column + 12);
  }
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens], minimum[tokens];
      LINNET_TOKENS sum[t] = minimum[t] = i_zero();
      for (int s = 0; s < 8; s++) {
        B high = b_load(w[b].high[s]);
        Scale scale = scale_u8(w[b].scale[s]);
        Acc acc[tokens];
        clear<tokens>(acc);
        half<tokens, 0>(w[b].q[s], high, x[b].q, 32 * s, acc);
        if (!kWideSums) {
          add_scaled<tokens>(sum, acc, scale);
          clear<tokens>(acc);
        }
        half<tokens, 4>(w[b].q[s] + 2, high, x[b].q, 32 * s + 16, acc);
        add_scaled<tokens>(sum, acc, scale);
      }
      add_mins<tokens>(minimum, w[b].min, x[b].sum);
      scale_sums_and_mins<tokens>(total, f_load_f16(w[b].d), f_load_f16(w[b].dmin), x[b].d, sum, minimum);
    }
  }
};

struct Q6_K : SuperBlock {
  using Block = PackedQ6_K;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens];
      LINNET_TOKENS sum[t] = i_zero();
      for (int s = 0; s < 16; s++) {
        B first = b_load(w[b].low[s][0]), second = b_load(w[b].low[s][1]), high = b_load(w[b].high[s]);
        Acc acc[tokens];
        LINNET_TOKENS acc[t] = acc_start<0>(&x[b].offset[s][t]);
        add_group<tokens>(acc, b_or(b_field<0, 0, 4>(first), b_field<0, 4, 2>(high)), x[b].q, 16 * s);
        add_group<tokens>(acc, b_or(b_field<4, 0, 4>(first), b_field<2, 4, 2>(high)), x[b].q, 16 * s + 4);
        add_group<tokens>(acc, b_or(b_field<0, 0, 4>(second), b_field<4, 4, 2>(high)), x[b].q, 16 * s + 8);
        add_group<tokens>(acc, b_or(b_field<4, 0, 4>(second), b_field<6, 4, 2>(high)), x[b].q, 16 * s + 12);
        add_scaled<tokens>(sum, acc, scale_i8(w[b].scale[s]));
      }
      scale_sums<tokens>(total, f_load_f16(w[b].d), x[b].d, sum);
    }
  }
};

struct IQ4_XS : SuperBlock {
  using Block = PackedIQ4_XS;
  template <int tokens>
  static inline void run(const Block* w, int64_t count, const ActivationQ8_K<tokens>* x, F* total) {
    for (int64_t b = 0; b < count; b++) {
      I sum[tokens];
      LINNET_TOKENS sum[t] = i_zero();
      for (int s = 0; s < 8; s++) {
        Acc acc[tokens];
        LINNET_TOKENS acc[t] = acc_start_signed(&x[b].offset[2 * s][t], &x[b].offset[2 * s + 1][t]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          B bytes = b_load(w[b].q[s][i]);
          Signed low = signed_bytes(b_lookup(b_field<0, 0, 4>(bytes), kIQ4Levels));
          Signed high = signed_bytes(b_lookup(b_field<4, 0, 4>(bytes), kIQ4Levels));
          LINNET_TOKENS {
            acc_add_signed(acc[t], low, x[b].q[t] + 32 * s + 8 * i);
            LINNET_KEEP(acc[t]);
            acc_add_signed(acc[t], high, x[b].q[t] + 32 * s + 8 * i + 4);
            LINNET_KEEP(acc[t]);
          }
        }
        LINNET_TOKENS sum[t] = i_scale(sum[t], acc_sum_signed(acc[t]), w[b].scale[s]);
      }
      scale_sums<tokens>(total, f_load_f16(w[b].d), x[b].d, sum);
    }
  }
};

void set_superblock_kernels(Kernels& k) {
  k.block_linear[(int)Type::Q2_K] = run_tile<Q2_K, kTile>;
  k.block_linear[(int)Type::Q3_K] = run_tile<Q3_K, kTile>;
  k.block_linear[(int)Type::Q4_K] = run_tile<Q4_K, kTile>;
  k.block_linear[(int)Type::Q5_K] = run_tile<Q5_K, kTile>;
  k.block_linear[(int)Type::Q6_K] = run_tile<Q6_K, kTile>;
  k.block_linear[(int)Type::IQ4_XS] = run_tile<IQ4_XS, kTile>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
