// Encoders of super-blocks without minima: Q3_K, Q6_K, IQ4_XS. w = d * scale * (integer or level), scale an integer of a sub-block.
#include "encoders.h"
#include "levels.h"

namespace linnet {
namespace LINNET_ISA {

// Sixteen sub-blocks, as in encode_affine.cc; scales from -scale_top - 1 to scale_top.
template <class Grid, int width, int scale_top>
struct SymmetricSuperBlocks {
  static constexpr int supers = width / 16, subs = kLanes / supers;
  Lanes lanes;
  F d, scale, error;

  F error_at(F s) const {
    F at = f_mul(d, s), inverse = f_inverse(at), total = f_zero();
    for (int k = 0; k < width; k++) {
      F x = lanes.value(k), e = f_sub(x, f_mul(at, Grid::nearest(f_mul(x, inverse))));
      total = f_fma(f_mul(lanes.weight(k), e), e, total);
    }
    return total;
  }
  void refine_integers() {
    error = f_set(3e38f);
    F s0 = scale;
    for (int try_ = 0; try_ < 3; try_++) {
      float step = try_ == 2 ? -1.0f : (float)try_;
      F s = f_clamp(f_add(s0, f_set(step)), -scale_top - 1, scale_top), e = error_at(s);
      scale = f_less(e, error, s, scale);
      error = f_min(e, error);
    }
  }
  void refine_scale() {
    Fit f = fit_at<width, Grid>(lanes, f_inverse(f_mul(d, scale)));
    d = f_as_half(f_ratio(f_sum_of<subs>(f_mul(scale, f.qx)), f_sum_of<subs>(f_mul(f_mul(scale, scale), f.qq))));
  }
  template <int sides>
  void search(const Targets (&tried)[sides], int rounds) {
    F wanted = best_scale<width, Grid>(lanes, tried);
    F peak = f_joined<subs>(wanted, [](float x, float y) { return __builtin_fabsf(y) > __builtin_fabsf(x) ? y : x; });
    d = f_as_half(f_div(peak, f_set(-scale_top - 1)));
    F inverse = f_inverse(d);
    scale = f_integer(f_mul(wanted, inverse), -scale_top - 1, scale_top);
    refine_integers();
    for (int i = 0; i < rounds; i++) {
      F old[] = {d, scale, error}, before = f_sum_of<subs>(error);
      refine_scale();
      refine_integers();
      F after = f_sum_of<subs>(error);
      d = f_less(after, before, d, old[0]);
      scale = f_less(after, before, scale, old[1]);
      error = f_less(after, before, error, old[2]);
    }
    place_at<width, Grid>(lanes, f_mul(d, scale));
  }
};

static inline void put(const uint8_t* codes, const int8_t* scales, RawQ3_K& raw) {
  for (int i = 0; i < 64; i++) {
    const uint8_t* first = codes + i / 32 * 128 + i % 32;
    raw.q[i] = (uint8_t)((first[0] & 3) | (first[32] & 3) << 2 | (first[64] & 3) << 4 | (first[96] & 3) << 6);
  }
  for (int i = 0; i < 32; i++) {
    int bits = 0;
    for (int s = 0; s < 8; s++) bits |= (codes[32 * s + i] >> 2) << s;
    raw.high[i] = (uint8_t)bits;
  }
  for (int s = 0; s < 8; s++) raw.scales[s] = (uint8_t)(((scales[s] + 32) & 15) | ((scales[s + 8] + 32) & 15) << 4);
  for (int s = 0; s < 4; s++) {
    int bits = 0;
    for (int part = 0; part < 4; part++) bits |= (scales[s + 4 * part] + 32) >> 4 << 2 * part;
    raw.scales[8 + s] = (uint8_t)bits;
  }
}

static inline void put(const uint8_t* codes, const int8_t* scales, RawQ6_K& raw) {
  for (int half = 0; half < 2; half++) {
    const uint8_t* q = codes + 128 * half;
    for (int i = 0; i < 64; i++) raw.low[64 * half + i] = (uint8_t)((q[i] & 15) | (q[i + 64] & 15) << 4);
    for (int i = 0; i < 32; i++) {
      raw.high[32 * half + i] = (uint8_t)(q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6);
    }
  }
  __builtin_memcpy(raw.scales, scales, 16);
}

static inline void put(const uint8_t* codes, const int8_t* scales, RawIQ4_XS& raw) {
  raw.scales_high = 0;
  for (int s = 0; s < 8; s++) raw.scales_high = (uint16_t)(raw.scales_high | (scales[s] + 32) >> 4 << 2 * s);
  for (int s = 0; s < 4; s++) raw.scales_low[s] = (uint8_t)(((scales[2 * s] + 32) & 15) | ((scales[2 * s + 1] + 32) & 15) << 4);
  for (int i = 0; i < 128; i++) {
    const uint8_t* first = codes + i / 16 * 32 + i % 16;
    raw.q[i] = (uint8_t)(first[0] | first[16] << 4);
  }
}

template <class Raw, class Grid, int width, int scale_top, int sides>
static inline void encode(const float* x, const float* weights, int64_t columns, uint8_t* raw, const Targets (&tried)[sides]) {
  SymmetricSuperBlocks<Grid, width, scale_top> group;
  constexpr int supers = group.supers;
  Raw* out = (Raw*)raw;
  for (int64_t left = columns / 256; left > 0; left -= supers, x += 256 * supers, weights += 256 * supers, out += supers) {
    int filled = left < supers ? (int)left : supers;
    load_lanes(x, width, filled * group.subs, group.lanes.x);
    load_lanes(weights, width, filled * group.subs, group.lanes.w);
    group.search(tried, 3);
    uint8_t codes[kLanes * width];
    int8_t scales[kLanes];
    uint16_t d[kLanes];
    store_codes(group.lanes, width, codes);
    f_store_i8(scales, group.scale);
    f_store_f16(d, group.d);
    for (int s = 0; s < filled; s++) {
      put(codes + 256 * s, scales + group.subs * s, out[s]);
      out[s].d = d[group.subs * s];
    }
  }
}

static void encode_q3_k(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  static const Targets tried[] = {{-5.0f, 0.25f, 11}, {2.4f, 0.25f, 7}};
  encode<RawQ3_K, Integers<-4, 3>, 16, 31>(x, w, columns, raw, tried);
}
static void encode_q6_k(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  static const Targets tried[] = {{-33.5f, 0.15f, 22}, {29.5f, 0.15f, 14}};
  encode<RawQ6_K, Integers<-32, 31>, 16, 127>(x, w, columns, raw, tried);
}
static void encode_iq4_xs(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  encode<RawIQ4_XS, IQ4Levels, 32, 31>(x, w, columns, raw, kIQ4Targets);
}

void set_symmetric_encoders(Kernels& kernels) {
  kernels.encode[(int)Type::Q3_K] = encode_q3_k;
  kernels.encode[(int)Type::Q6_K] = encode_q6_k;
  kernels.encode[(int)Type::IQ4_XS] = encode_iq4_xs;
}

}  // namespace LINNET_ISA
}  // namespace linnet
