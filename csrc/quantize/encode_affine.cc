// Encoders of super-blocks with minima: Q2_K, Q4_K, Q5_K. w = d * scale * q - dmin * min, scale and min integers of a sub-block.
#include "affine.h"
#include "encoders.h"

namespace linnet {
namespace LINNET_ISA {

// Sixteen sub-blocks: one super-block of sub-blocks of 16 columns, or two of sub-blocks of 32.
template <int width, int top, int scale_top>
struct AffineSuperBlocks {
  static constexpr int supers = width / 16, subs = kLanes / supers;
  Lanes lanes;
  BlockSums sums;
  F d, dmin;       // of each sub-block's super-block, as stored
  F scale, least;  // integers of each sub-block: w = d * scale * q - dmin * least
  F error;         // of each sub-block

  Affine stored(F s, F m) const { return {f_mul(d, s), f_negate(f_mul(dmin, m))}; }

  struct Trial {
    AffineFit fit;
    F error;
  };
  Trial trial(Affine at) const {
    F inverse = f_inverse(at.scale), shift = f_mul(f_negate(at.offset), inverse);
    Trial t{{}, f_zero()};
    for (int k = 0; k < width; k++) {
      F x = lanes.value(k), w = lanes.weight(k), q = f_integer(f_fma(x, inverse, shift), 0, top), wq = f_mul(w, q);
      F e = f_sub(f_sub(x, at.offset), f_mul(at.scale, q));
      t.fit.q = f_add(t.fit.q, wq);
      t.fit.qq = f_fma(wq, q, t.fit.qq);
      t.fit.qx = f_fma(wq, x, t.fit.qx);
      t.error = f_fma(f_mul(w, e), e, t.error);
    }
    return t;
  }

  // Keeps a sub-block's integers if they are better.
  Trial consider(F s, F m) {
    Trial t = trial(stored(s, m));
    scale = f_less(t.error, error, s, scale);
    least = f_less(t.error, error, m, least);
    error = f_min(t.error, error);
    return t;
  }

  // Neighbouring scales, each with the minimum that fits the integers it leads to.
  void refine_integers() {
    error = f_set(3e38f);
    F s0 = scale, m0 = least;
    for (int step = 0; step < 3; step++) {
      F s = f_clamp(f_add(s0, f_set(step == 0 ? 0.0f : step == 1 ? -1.0f : 1.0f)), 0, scale_top);
      Trial t = consider(s, m0);
      F offset = f_ratio(f_sub(sums.x, f_mul(f_mul(d, s), t.fit.q)), sums.w);
      consider(s, f_integer(f_less(f_zero(), dmin, f_div(f_negate(offset), dmin), f_zero()), 0, scale_top));
    }
  }

  // Least squares for d and dmin with every integer fixed.
  void refine_scales() {
    AffineFit fit = trial(stored(scale, least)).fit;
    F ss = f_mul(scale, scale), mm = f_mul(least, least);
    F a = f_sum_of<subs>(f_mul(ss, fit.qq)), b = f_sum_of<subs>(f_mul(f_mul(scale, least), fit.q)), c = f_sum_of<subs>(f_mul(mm, sums.w));
    F x = f_sum_of<subs>(f_mul(scale, fit.qx)), y = f_sum_of<subs>(f_mul(least, sums.x));
    F determinant = f_sub(f_mul(a, c), f_mul(b, b));
    F both_d = f_ratio(f_sub(f_mul(x, c), f_mul(b, y)), determinant), both_m = f_ratio(f_sub(f_mul(b, x), f_mul(a, y)), determinant);
    d = f_as_half(f_less(f_zero(), determinant, both_d, f_ratio(x, a)));
    dmin = f_as_half(f_less(f_zero(), determinant, f_max(f_zero(), both_m), f_zero()));
  }

  void search(int rounds) {
    sums = block_sums<width>(lanes);
    Affine at = best_affine<width, top, true>(lanes, sums, top == 3 ? Margins{-0.05f, 0.05f, 7} : Margins{-0.04f, 0.02f, 8});
    d = f_as_half(f_div(f_largest_of<subs>(at.scale), f_set(scale_top)));
    dmin = f_as_half(f_div(f_largest_of<subs>(f_negate(at.offset)), f_set(scale_top)));
    scale = f_integer(f_ratio(at.scale, d), 0, scale_top);
    least = f_integer(f_ratio(f_negate(at.offset), dmin), 0, scale_top);
    refine_integers();
    for (int i = 0; i < rounds; i++) {
      F old[] = {d, dmin, scale, least, error}, before = f_sum_of<subs>(error);
      refine_scales();
      refine_integers();
      F after = f_sum_of<subs>(error);
      d = f_less(after, before, d, old[0]);
      dmin = f_less(after, before, dmin, old[1]);
      scale = f_less(after, before, scale, old[2]);
      least = f_less(after, before, least, old[3]);
      error = f_less(after, before, error, old[4]);
    }
    place_at<width, top>(lanes, stored(scale, least));
  }
};

// What is written of a super-block: integers of its columns, scales and minima of its sub-blocks.
struct Chosen {
  const uint8_t *codes, *scales, *minima;
};

static inline void put(const Chosen& c, RawQ2_K& raw) {
  for (int s = 0; s < 16; s++) raw.scales[s] = (uint8_t)(c.scales[s] | c.minima[s] << 4);
  for (int i = 0; i < 64; i++) {
    const uint8_t* first = c.codes + i / 32 * 128 + i % 32;  // four columns 32 apart
    raw.q[i] = (uint8_t)(first[0] | first[32] << 2 | first[64] << 4 | first[96] << 6);
  }
}

// Eight of each, 6 bits wide, in 12 bytes: the last four lend their top 2 bits to the first eight.
static inline void put_six_bits(const Chosen& c, uint8_t* packed) {
  for (int s = 0; s < 4; s++) {
    packed[s] = (uint8_t)(c.scales[s] | c.scales[s + 4] >> 4 << 6);
    packed[s + 4] = (uint8_t)(c.minima[s] | c.minima[s + 4] >> 4 << 6);
    packed[s + 8] = (uint8_t)((c.scales[s + 4] & 15) | (c.minima[s + 4] & 15) << 4);
  }
}
static inline void put_wide_nibbles(const uint8_t* codes, uint8_t* q) {
  for (int i = 0; i < 128; i++) {
    const uint8_t* first = codes + i / 32 * 64 + i % 32;
    q[i] = (uint8_t)((first[0] & 15) | first[32] << 4);
  }
}
static inline void put(const Chosen& c, RawQ4_K& raw) {
  put_six_bits(c, raw.scales);
  put_wide_nibbles(c.codes, raw.q);
}
static inline void put(const Chosen& c, RawQ5_K& raw) {
  put_six_bits(c, raw.scales);
  put_wide_nibbles(c.codes, raw.q);
  for (int i = 0; i < 32; i++) {
    int bits = 0;
    for (int s = 0; s < 8; s++) bits |= (c.codes[32 * s + i] >> 4) << s;
    raw.high[i] = (uint8_t)bits;
  }
}

template <class Raw, int width, int top, int scale_top>
static void encode_affine(const float* x, const float* weights, int64_t columns, uint8_t* raw) {
  AffineSuperBlocks<width, top, scale_top> group;
  constexpr int supers = group.supers;
  Raw* out = (Raw*)raw;
  for (int64_t left = columns / 256; left > 0; left -= supers, x += 256 * supers, weights += 256 * supers, out += supers) {
    int count = left < supers ? (int)left : supers;
    load_lanes(x, width, count * group.subs, group.lanes.x);
    load_lanes(weights, width, count * group.subs, group.lanes.w);
    group.search(3);
    uint8_t codes[kLanes * width], scales[kLanes], minima[kLanes];
    uint16_t d[kLanes], dmin[kLanes];
    store_codes(group.lanes, width, codes);
    f_store_i8((int8_t*)scales, group.scale);
    f_store_i8((int8_t*)minima, group.least);
    f_store_f16(d, group.d);
    f_store_f16(dmin, group.dmin);
    for (int s = 0; s < count; s++) {
      put(Chosen{codes + 256 * s, scales + group.subs * s, minima + group.subs * s}, out[s]);
      out[s].d = d[group.subs * s];
      out[s].dmin = dmin[group.subs * s];
    }
  }
}

void set_affine_encoders(Kernels& kernels) {
  kernels.encode[(int)Type::Q2_K] = encode_affine<RawQ2_K, 16, 3, 15>;
  kernels.encode[(int)Type::Q4_K] = encode_affine<RawQ4_K, 32, 15, 63>;
  kernels.encode[(int)Type::Q5_K] = encode_affine<RawQ5_K, 32, 31, 63>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
