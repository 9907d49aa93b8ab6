// Products of weights in blocks of 32 columns with Q8_0 activations: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
//
// A format says how four columns of sixteen rows become bytes, what starts its sums, and its scale. kMin formats add
// min * (sum of activations) to each block.
#include "block_tile.h"

namespace linnet {
namespace LINNET_ISA {

// Columns 4i to 4i + 3 of nibble-packed rows.
template <int i>
static inline B nibbles(const uint8_t (*q)[64]) {
  return b_field<i % 2 * 4, 0, 4>(b_load(q[i / 2]));
}

template <int i>
static inline B five_bits(const uint8_t (*q)[64], const uint8_t* high) {
  return b_or(nibbles<i>(q), b_field<i, 4, 1>(b_load(high)));
}

struct Unsigned {
  static constexpr bool kSigned = false, kMin = false, kSplit = false;
};
struct UnsignedWithMin {
  static constexpr bool kSigned = false, kMin = true, kSplit = false;
};
struct SignedWeights {
  static constexpr bool kSigned = true, kMin = false, kSplit = false;
  static inline Acc start(const uint32_t* offset) { return acc_start_signed(offset); }
};

struct Q4_0 : Unsigned {
  using Block = PackedQ4_0;
  static inline Acc start(const uint32_t* offset) { return acc_start<0>(offset); }
  template <int i>
  static inline B columns(const Block& w) {
    return nibbles<i>(w.q);
  }
  static inline F scale(const Block& w) { return f_load_f16(w.d); }
};

struct Q4_1 : UnsignedWithMin {
  using Block = PackedQ4_1;
  static inline Acc start(const uint32_t*) { return acc_zero(); }
  template <int i>
  static inline B columns(const Block& w) {
    return nibbles<i>(w.q);
  }
  static inline F scale(const Block& w) { return f_load_f16(w.d); }
  static inline F min(const Block& w) { return f_load_f16(w.m); }
};

struct Q5_0 : Unsigned {
  using Block = PackedQ5_0;
  static inline Acc start(const uint32_t* offset) { return acc_start<1>(offset); }
  template <int i>
  static inline B columns(const Block& w) {
    return five_bits<i>(w.q, w.high);
  }
  static inline F scale(const Block& w) { return f_load_f16(w.d); }
};

struct Q5_1 : UnsignedWithMin {
  using Block = PackedQ5_1;
  static constexpr bool kSplit = !kWideSums;  // 32 columns of five bits would overflow int16 sums: widen after 16
  static inline Acc start(const uint32_t*) { return acc_zero(); }
  template <int i>
  static inline B columns(const Block& w) {
    return five_bits<i>(w.q, w.high);
  }
  static inline F scale(const Block& w) { return f_load_f16(w.d); }
  static inline F min(const Block& w) { return f_load_f16(w.m); }
};

struct Q8_0 : SignedWeights {
  using Block = PackedQ8_0;
  template <int i>
  static inline B columns(const Block& w) {
    return b_load(w.q[i]);
  }
  static inline F scale(const Block& w) { return f_load_f16(w.d); }
};

struct IQ4_NL : SignedWeights {
  using Block = PackedIQ4_NL;
  template <int i>
  static inline B columns(const Block& w) {
    return b_lookup(nibbles<i>(w.q), kIQ4Levels);
  }
  static inline F scale(const Block& w) { return f_load_f16(w.d); }
};

struct MXFP4 : SignedWeights {
  using Block = PackedMXFP4;
  template <int i>
  static inline B columns(const Block& w) {
    return b_lookup(nibbles<i>(w.q), kE2M1Doubled);
  }
  static inline F scale(const Block& w) { return f_load_e8m0_half(w.e); }
};

template <class Format>
struct BlockTile {
  using Block = typename Format::Block;
  template <int tokens>
  using Activation = ActivationQ8_0<tokens>;

  // Columns 4i to 4 * end.
  template <int i, int end, int groups, int tokens>
  static inline void add_from(Acc (&acc)[groups][tokens], const Block* w, int64_t count, const Activation<tokens>& x) {
    B bytes[groups];
    LINNET_UNROLL for (int g = 0; g < groups; g++) {
      bytes[g] = Format::template columns<i>(w[g * count]);
      LINNET_KEEP(bytes[g]);  // not unpacked before the columns ahead of them are used
    }
    add_columns<Format::kSigned>(acc, bytes, x.q, 4 * i);
    if constexpr (i + 1 < end) add_from<i + 1, end>(acc, w, count, x);
  }

  template <int groups, int tokens>
  static inline void dot(I (&sum)[groups][tokens], const Block* w, int64_t count, const Activation<tokens>& x) {
    Acc acc[groups][tokens];
    LINNET_EACH_OUTPUT(groups, tokens) acc[g][t] = Format::start(&x.offset[t]);
    add_from<0, Format::kSplit ? 4 : 8>(acc, w, count, x);
    LINNET_EACH_OUTPUT(groups, tokens) sum[g][t] = sum_of<Format::kSigned>(acc[g][t]);
    if constexpr (Format::kSplit) {
      LINNET_EACH_OUTPUT(groups, tokens) acc[g][t] = acc_zero();
      add_from<4, 8>(acc, w, count, x);
      LINNET_EACH_OUTPUT(groups, tokens) sum[g][t] = i_add(sum[g][t], acc_sum(acc[g][t]));
    }
  }

  template <int groups, int tokens>
  static inline void run(const Block* w, int64_t count, const Activation<tokens>* x, F (&total)[groups][tokens]) {
    for (int64_t b = 0; b < count; b++, w++, x++) {
      if constexpr (kAsksAhead<Block>) prefetch<groups>(w, count);
      I sum[groups][tokens];
      dot(sum, w, count, *x);
      LINNET_UNROLL for (int g = 0; g < groups; g++) {
        F d = Format::scale(w[g * count]);
        LINNET_UNROLL for (int t = 0; t < tokens; t++) { total[g][t] = f_fma(f_from_i(sum[g][t]), f_mul(d, f_set(x->d[t])), total[g][t]); }
        if constexpr (Format::kMin) {
          F m = Format::min(w[g * count]);
          LINNET_UNROLL for (int t = 0; t < tokens; t++) total[g][t] = f_fma(m, f_set(x->sum[t]), total[g][t]);
        }
      }
    }
  }
};

void set_block_kernels(Kernels& k) {
  k.tile_groups = kGroups;
  k.tile_tokens = kTokens;
  k.block_linear[(int)Type::Q4_0] = choose_tile<BlockTile<Q4_0>>;
  k.block_linear[(int)Type::Q4_1] = choose_tile<BlockTile<Q4_1>>;
  k.block_linear[(int)Type::Q5_0] = choose_tile<BlockTile<Q5_0>>;
  k.block_linear[(int)Type::Q5_1] = choose_tile<BlockTile<Q5_1>>;
  k.block_linear[(int)Type::Q8_0] = choose_tile<BlockTile<Q8_0>>;
  k.block_linear[(int)Type::IQ4_NL] = choose_tile<BlockTile<IQ4_NL>>;
  k.block_linear[(int)Type::MXFP4] = choose_tile<BlockTile<MXFP4>>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
