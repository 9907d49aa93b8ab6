// Products of weights in super-blocks of 256 columns with Q8_K activations: Q2_K to Q6_K and IQ4_XS.
//
// Sub-blocks of 16 or 32 columns are scaled and summed as integers; a super-block then costs one conversion and one
// multiply-add an output (two where the format has minima). A format says how four columns of a sub-block become
// bytes, what starts its sums, its scales and its minima. `odd` is the sub-block's parity, known when compiling.
#include "block_tile.h"

namespace linnet {
namespace LINNET_ISA {

template <int tokens>
using Activation = ActivationQ8_K<tokens>;

struct UnsignedSub {
  static constexpr bool kSigned = false, kMin = false, kSplit = false;
};
struct UnsignedSubWithMin {
  static constexpr bool kSigned = false, kMin = true, kSplit = false;
  template <int tokens>
  static inline Acc start(const Activation<tokens>&, int, int) {
    return acc_zero();
  }
};

struct Q2_K : UnsignedSubWithMin {
  using Block = PackedQ2_K;
  static constexpr int kColumns = 16;
  template <int i, int odd>
  static inline B columns(const Block& w, int s) {
    return b_field<2 * i, 0, 2>(b_load(w.q[s]));
  }
  template <int odd>
  static inline I add_scaled(I total, Acc acc, const Block& w, int s) {
    return acc_scale(total, acc, scale_nibbles<odd>(w.scale[s / 2][0]));
  }
  template <int tokens>
  static inline I minimum(const Block& w, const Activation<tokens>& x, int t) {
    I sum = i_zero();
    for (int j = 0; j < 8; j++) sum = i_add_high_nibble_pairs(sum, w.scale[j][0], x.half_sum[t] + 2 * j);
    return sum;
  }
};

struct Q3_K : UnsignedSub {
  using Block = PackedQ3_K;
  static constexpr int kColumns = 16;
  template <int tokens>
  static inline Acc start(const Activation<tokens>& x, int s, int t) {
    return acc_start<-3>(&x.offset[s][t]);  // -4 * sum from -32 * sum
  }
  template <int i, int odd>
  static inline B columns(const Block& w, int s) {
    return b_or(b_field<2 * i, 0, 2>(b_load(w.q[s])), b_field<4 * odd + i, 2, 1>(b_load(w.high[s / 2])));
  }
  template <int odd>
  static inline I add_scaled(I total, Acc acc, const Block& w, int s) {
    return acc_scale(total, acc, scale_i8(w.scale[s]));
  }
};

// Eight sub-blocks of 32 columns with six-bit scales and mins.
template <class Packed>
struct SixBitScales : UnsignedSubWithMin {
  using Block = Packed;
  static constexpr int kColumns = 32;
  template <int odd>
  static inline I add_scaled(I total, Acc acc, const Block& w, int s) {
    return acc_scale(total, acc, scale_u8(w.scale[s]));
  }
  template <int tokens>
  static inline I minimum(const Block& w, const Activation<tokens>& x, int t) {
    I sum = i_zero();
    for (int j = 0; j < 4; j++) sum = i_add_pairs(sum, w.min[j][0], x.sum[t] + 2 * j);
    return sum;
  }
};

struct Q4_K : SixBitScales<PackedQ4_K> {
  template <int i, int odd>
  static inline B columns(const Block& w, int s) {
    return b_field<i % 2 * 4, 0, 4>(b_load(w.q[s][i / 2]));
  }
};

struct Q5_K : SixBitScales<PackedQ5_K> {
  static constexpr bool kSplit = !kWideSums;  // 32 columns of five bits would overflow int16 sums: scale after 16
  template <int i, int odd>
  static inline B columns(const Block& w, int s) {
    return b_or(b_field<i % 2 * 4, 0, 4>(b_load(w.q[s][i / 2])), b_field<i, 4, 1>(b_load(w.high[s])));
  }
};

struct Q6_K : UnsignedSub {
  using Block = PackedQ6_K;
  static constexpr int kColumns = 16;
  template <int tokens>
  static inline Acc start(const Activation<tokens>& x, int s, int t) {
    return acc_start<0>(&x.offset[s][t]);
  }
  template <int i, int odd>
  static inline B columns(const Block& w, int s) {
    return b_or(b_field<i % 2 * 4, 0, 4>(b_load(w.low[s][i / 2])), b_field<2 * i, 4, 2>(b_load(w.high[s])));
  }
  template <int odd>
  static inline I add_scaled(I total, Acc acc, const Block& w, int s) {
    return acc_scale(total, acc, scale_i8(w.scale[s]));
  }
};

struct IQ4_XS {
  static constexpr bool kSigned = true, kMin = false, kSplit = false;
  using Block = PackedIQ4_XS;
  static constexpr int kColumns = 32;
  template <int tokens>
  static inline Acc start(const Activation<tokens>& x, int s, int t) {
    return acc_start_signed(&x.offset[2 * s][t], &x.offset[2 * s + 1][t]);
  }
  template <int i, int odd>
  static inline B columns(const Block& w, int s) {
    return b_lookup(b_field<i % 2 * 4, 0, 4>(b_load(w.q[s][i / 2])), kIQ4Levels);
  }
  template <int odd>
  static inline I add_scaled(I total, Acc acc, const Block& w, int s) {
    return i_scale(total, acc_sum_signed(acc), w.scale[s]);
  }
};

template <class Format>
struct SuperBlockTile {
  using Block = typename Format::Block;
  template <int tokens>
  using Activation = ActivationQ8_K<tokens>;

  template <int odd, int groups, int tokens>
  static inline void scale_sums(I (&sum)[groups][tokens], const Acc (&acc)[groups][tokens], const Block* w, int64_t count, int s) {
    LINNET_EACH_OUTPUT(groups, tokens) {
      sum[g][t] = Format::template add_scaled<odd>(sum[g][t], acc[g][t], w[g * count], s);
      LINNET_KEEP(sum[g][t]);  // or products wait in registers to be added together
    }
  }

  template <int i, int odd, int groups, int tokens>
  static inline void add_from(I (&sum)[groups][tokens], Acc (&acc)[groups][tokens], const Block* w, int64_t count,
                              const Activation<tokens>& x, int s) {
    if constexpr (i == 4 && Format::kSplit) {
      scale_sums<odd>(sum, acc, w, count, s);
      LINNET_EACH_OUTPUT(groups, tokens) acc[g][t] = acc_zero();
    }
    B bytes[groups];
    LINNET_UNROLL for (int g = 0; g < groups; g++) {
      bytes[g] = Format::template columns<i, odd>(w[g * count], s);
      LINNET_KEEP(bytes[g]);  // not unpacked before the columns ahead of them are used
    }
    add_columns<Format::kSigned>(acc, bytes, x.q, Format::kColumns * s + 4 * i);
    if constexpr (4 * (i + 1) < Format::kColumns) add_from<i + 1, odd>(sum, acc, w, count, x, s);
  }

  template <int odd, int groups, int tokens>
  static inline void sub_block(I (&sum)[groups][tokens], const Block* w, int64_t count, const Activation<tokens>& x, int s) {
    Acc acc[groups][tokens];
    LINNET_EACH_OUTPUT(groups, tokens) acc[g][t] = Format::start(x, s, t);
    add_from<0, odd>(sum, acc, w, count, x, s);
    scale_sums<odd>(sum, acc, w, count, s);
  }

  template <int groups, int tokens>
  static inline void run(const Block* w, int64_t count, const Activation<tokens>* x, F (&total)[groups][tokens]) {
    for (int64_t b = 0; b < count; b++, w++, x++) {
      constexpr int subs = 256 / Format::kColumns;
      I sum[groups][tokens];
      LINNET_EACH_OUTPUT(groups, tokens) sum[g][t] = i_zero();
      for (int s = 0; s < subs; s += 2) {
        prefetch<groups, subs / 2>(w, count, s / 2);
        sub_block<0>(sum, w, count, *x, s);
        sub_block<1>(sum, w, count, *x, s + 1);
      }
      LINNET_UNROLL for (int g = 0; g < groups; g++) {
        F d = f_load_f16(w[g * count].d);
        LINNET_UNROLL for (int t = 0; t < tokens; t++) { total[g][t] = f_fma(f_from_i(sum[g][t]), f_mul(d, f_set(x->d[t])), total[g][t]); }
        if constexpr (Format::kMin) {
          F dmin = f_load_f16(w[g * count].dmin);
          LINNET_UNROLL for (int t = 0; t < tokens; t++) {
            total[g][t] = f_fma(f_from_i(Format::minimum(w[g * count], *x, t)), f_mul(dmin, f_set(-x->d[t])), total[g][t]);
          }
        }
      }
    }
  }
};

void set_superblock_kernels(Kernels& k) {
  k.block_linear[(int)Type::Q2_K] = choose_tile<SuperBlockTile<Q2_K>>;
  k.block_linear[(int)Type::Q3_K] = choose_tile<SuperBlockTile<Q3_K>>;
  k.block_linear[(int)Type::Q4_K] = choose_tile<SuperBlockTile<Q4_K>>;
  k.block_linear[(int)Type::Q5_K] = choose_tile<SuperBlockTile<Q5_K>>;
  k.block_linear[(int)Type::Q6_K] = choose_tile<SuperBlockTile<Q6_K>>;
  k.block_linear[(int)Type::IQ4_XS] = choose_tile<SuperBlockTile<IQ4_XS>>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
