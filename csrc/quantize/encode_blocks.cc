// Encoders of blocks of 32 columns: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4. Sixteen blocks of a row at a time.
#include "affine.h"
#include "encoders.h"
#include "levels.h"

namespace linnet {
namespace LINNET_ISA {

// Calls one(lanes, count, out) for every sixteen blocks of a row; the integers of those `count` blocks go into `out`.
template <class Raw, class One>
static inline void each_sixteen(const float* x, const float* weights, int64_t columns, uint8_t* raw, One one) {
  Lanes lanes;
  Raw* out = (Raw*)raw;
  for (int64_t left = columns / 32; left > 0; left -= kLanes, x += 32 * kLanes, weights += 32 * kLanes, out += kLanes) {
    int count = left < kLanes ? (int)left : kLanes;
    load_lanes(x, 32, count, lanes.x);
    load_lanes(weights, 32, count, lanes.w);
    one(lanes, count, out);
  }
}

// Column j low, column j + 16 high.
static inline void put_nibbles(const uint8_t* codes, uint8_t* q) {
  for (int j = 0; j < 16; j++) q[j] = (uint8_t)((codes[j] & 15) | codes[j + 16] << 4);
}
static inline uint32_t fifth_bits(const uint8_t* codes) {
  uint32_t bits = 0;
  for (int j = 0; j < 32; j++) bits |= (uint32_t)(codes[j] >> 4 & 1) << j;
  return bits;
}
static inline void put_codes(const uint8_t* codes, RawQ4_0& raw) { put_nibbles(codes, raw.q); }
static inline void put_codes(const uint8_t* codes, RawQ4_1& raw) { put_nibbles(codes, raw.q); }
static inline void put_codes(const uint8_t* codes, RawIQ4_NL& raw) { put_nibbles(codes, raw.q); }
static inline void put_codes(const uint8_t* codes, RawQ5_0& raw) {
  raw.high = fifth_bits(codes);
  put_nibbles(codes, raw.q);
}
static inline void put_codes(const uint8_t* codes, RawQ5_1& raw) {
  raw.high = fifth_bits(codes);
  put_nibbles(codes, raw.q);
}
static inline void put_codes(const uint8_t* codes, RawQ8_0& raw) { __builtin_memcpy(raw.q, codes, 32); }

// Scales and integers of sixteen blocks into the first `count` of `out`.
template <class Raw>
static inline void put_blocks(const Lanes& lanes, F scale, int count, Raw* out) {
  uint16_t d[kLanes];
  uint8_t codes[kLanes * 32];
  f_store_f16(d, scale);
  store_codes(lanes, 32, codes);
  for (int i = 0; i < count; i++) {
    out[i].d = d[i];
    put_codes(codes + 32 * i, out[i]);
  }
}

template <class Raw, class Grid, int sides>
static inline void encode_scaled(const float* x, const float* weights, int64_t columns, uint8_t* raw, const Targets (&tried)[sides]) {
  each_sixteen<Raw>(x, weights, columns, raw, [&](Lanes& lanes, int blocks, Raw* out) {
    F scale = f_as_half(best_scale<32, Grid>(lanes, tried));
    place_at<32, Grid>(lanes, scale);
    put_blocks(lanes, scale, blocks, out);
  });
}

static void encode_q4_0(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  static const Targets tried[] = {{-9.0f, 0.2f, 12}, {6.4f, 0.2f, 8}};
  encode_scaled<RawQ4_0, Integers<-8, 7>>(x, w, columns, raw, tried);
}
static void encode_q5_0(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  static const Targets tried[] = {{-17.0f, 0.2f, 12}, {14.4f, 0.2f, 8}};
  encode_scaled<RawQ5_0, Integers<-16, 15>>(x, w, columns, raw, tried);
}
// Stored as they are, not from zero up.
struct SignedBytes {
  static F nearest(F value) { return f_integer(value, -127, 127); }
  static F place(F value) { return nearest(value); }
};
static void encode_q8_0(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  static const Targets tried[] = {{124.0f, 0.2f, 20}};
  encode_scaled<RawQ8_0, SignedBytes>(x, w, columns, raw, tried);
}
static void encode_iq4_nl(const float* x, const float* w, int64_t columns, uint8_t* raw) {
  encode_scaled<RawIQ4_NL, IQ4Levels>(x, w, columns, raw, kIQ4Targets);
}

template <class Raw, int top>
static inline void encode_affine(const float* x, const float* weights, int64_t columns, uint8_t* raw) {
  each_sixteen<Raw>(x, weights, columns, raw, [&](Lanes& lanes, int blocks, Raw* out) {
    Affine at = best_affine<32, top, false>(lanes, block_sums<32>(lanes), {-0.04f, 0.02f, 8});
    at = {f_as_half(at.scale), f_as_half(at.offset)};
    place_at<32, top>(lanes, at);
    put_blocks(lanes, at.scale, blocks, out);
    uint16_t m[kLanes];
    f_store_f16(m, at.offset);
    for (int i = 0; i < blocks; i++) out[i].m = m[i];
  });
}
static void encode_q4_1(const float* x, const float* w, int64_t columns, uint8_t* raw) { encode_affine<RawQ4_1, 15>(x, w, columns, raw); }
static void encode_q5_1(const float* x, const float* w, int64_t columns, uint8_t* raw) { encode_affine<RawQ5_1, 31>(x, w, columns, raw); }

// E2M1 doubled, ascending, and the stored code of each: the sign is the top bit.
static const float kE2M1[15] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
static const uint8_t kE2M1Codes[15] = {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7};

// Of three powers of two, the one with the smallest weighted squared error: the smallest under which no value is clipped, and its halves.
static void encode_mxfp4(const float* x, const float* weights, int64_t columns, uint8_t* raw) {
  each_sixteen<RawMXFP4>(x, weights, columns, raw, [&](Lanes& lanes, int blocks, RawMXFP4* out) {
    float peak[kLanes], unit[kLanes];
    int exponent[kLanes];
    f_store(peak, f_abs(extreme<32>(lanes)));
    for (int i = 0; i < kLanes; i++) {  // peak < 2^e = 8 * 2^(e - 3): nothing is clipped, and one halving is what the format's paper takes
      if (peak[i] > 0) (void)__builtin_frexpf(peak[i], &exponent[i]);
      if (!(peak[i] > 0)) exponent[i] = -200;
      exponent[i] -= 3;
      exponent[i] = exponent[i] < -124 ? -124 : exponent[i] > 127 ? 127 : exponent[i];
      unit[i] = __builtin_ldexpf(1.0f, -exponent[i]);
    }
    F best = f_set(3e38f), chosen = f_zero();
    for (int halvings = 0; halvings < 3; halvings++) {  // halvings - 1 of them
      float levels = halvings == 0 ? 1.0f : halvings == 1 ? 2.0f : 4.0f;
      F inverse = f_mul(f_load(unit), f_set(levels)), back = f_set(1.0f / levels), error = f_zero();
      for (int k = 0; k < 32; k++) {
        F t = f_mul(lanes.value(k), inverse), e = f_mul(f_sub(t, nearest_level(t, kE2M1)), back);
        error = f_fma(f_mul(e, lanes.weight(k)), e, error);
      }
      chosen = f_less(error, best, f_set((float)halvings), chosen);
      best = f_min(error, best);
    }
    float halvings[kLanes];
    f_store(halvings, chosen);
    for (int i = 0; i < kLanes; i++) unit[i] *= (float)(1 << (int)halvings[i]);
    uint8_t codes[kLanes * 32];
    for (int k = 0; k < 32; k++) lanes.set(k, nearest_place(f_mul(lanes.value(k), f_load(unit)), kE2M1));
    store_codes(lanes, 32, codes);
    for (int i = 0; i < blocks; i++) {
      uint8_t stored[32];
      for (int k = 0; k < 32; k++) stored[k] = kE2M1Codes[codes[32 * i + k]];
      out[i].e = (uint8_t)(exponent[i] - (int)halvings[i] + 128);
      put_nibbles(stored, out[i].q);
    }
  });
}

void set_block_encoders(Kernels& kernels) {
  kernels.encode[(int)Type::Q4_0] = encode_q4_0;
  kernels.encode[(int)Type::Q4_1] = encode_q4_1;
  kernels.encode[(int)Type::Q5_0] = encode_q5_0;
  kernels.encode[(int)Type::Q5_1] = encode_q5_1;
  kernels.encode[(int)Type::Q8_0] = encode_q8_0;
  kernels.encode[(int)Type::IQ4_NL] = encode_iq4_nl;
  kernels.encode[(int)Type::MXFP4] = encode_mxfp4;
}

}  // namespace LINNET_ISA
}  // namespace linnet
