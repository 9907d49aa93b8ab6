// Super-blocks of 256 columns: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS.
#include "block_pack.h"

namespace linnet {

namespace {

// Word i of four columns of sub-block s (16 columns) of Q2_K and Q3_K: 2-bit fields that ggml keeps 32 columns apart.
inline uint32_t two_bits(const uint8_t* q, int s, int i) {
  return word(q + 32 * (s / 8) + 16 * (s % 2), i) >> (2 * (s % 8 / 2)) & 0x03030303u;
}

inline uint32_t side_by_side(uint32_t g0, uint32_t g1, uint32_t g2, uint32_t g3, int bits) {
  return g0 | g1 << bits | g2 << (2 * bits) | g3 << (3 * bits);
}

void put_two_bits(const uint8_t* q, int r, uint8_t (*out)[64]) {
  for (int s = 0; s < 16; s++) {
    put(out[s], r, side_by_side(two_bits(q, s, 0), two_bits(q, s, 1), two_bits(q, s, 2), two_bits(q, s, 3), 2));
  }
}

void pack_q2_k(const RawQ2_K& raw, int r, PackedQ2_K& out) {
  out.d[r] = raw.d;
  out.dmin[r] = raw.dmin;
  for (int s = 0; s < 16; s++) out.scale[s / 2][r][s % 2] = raw.scales[s];
  put_two_bits(raw.q, r, out.q);
}

void floats_q2_k(const PackedQ2_K& p, int r, float* out) {
  float d = half_value(p.d[r]), dmin = half_value(p.dmin[r]);
  for (int k = 0; k < 256; k++) {
    int scale = p.scale[k / 32][r][k / 16 % 2];
    out[k] = d * (float)(scale & 15) * (float)field<2>(p.q, r, k) - dmin * (float)(scale >> 4);
  }
}

// Six-bit scale s of Q3_K: low nibbles in the first eight bytes, two high bits each in the last four.
inline int q3_k_scale(const uint8_t* packed, int s) {
  int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
  return (low | (packed[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
}

void pack_q3_k(const RawQ3_K& raw, int r, PackedQ3_K& out) {
  out.d[r] = raw.d;
  put_two_bits(raw.q, r, out.q);
  for (int s = 0; s < 16; s++) out.scale[s][r] = (int8_t)q3_k_scale(raw.scales, s);
  for (int pair = 0; pair < 8; pair++) {  // 32 columns share bit `pair` of 32 bytes
    uint32_t all = 0;
    for (int g = 0; g < 8; g++) all |= (word(raw.high, g) >> pair & 0x01010101u) << g;
    put(out.high[pair], r, all);
  }
}

void floats_q3_k(const PackedQ3_K& p, int r, float* out) {
  float d = half_value(p.d[r]);
  for (int k = 0; k < 256; k++) {
    int q = field<2>(p.q, r, k) | field<1>(p.high, r, k) << 2;
    out[k] = d * (float)p.scale[k / 16][r] * (float)(q - 4);
  }
}

// Six-bit scale and min of sub-block s of Q4_K and Q5_K, from 12 bytes.
template <class Packed>
void put_scales(const uint8_t* packed, int r, Packed& out) {
  for (int s = 0; s < 8; s++) {
    bool direct = s < 4;
    out.scale[s][r] = (uint8_t)(direct ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4);
    out.min[s / 2][r][s % 2] = (uint8_t)(direct ? packed[s + 4] & 63 : (packed[s + 4] >> 4) | (packed[s] >> 6) << 4);
  }
}

// 128 bytes of nibbles: each 32 bytes hold a sub-block low and the next one high.
void put_wide_nibbles(const uint8_t* q, int r, uint8_t (*out)[4][64]) {
  for (int s = 0; s < 8; s += 2, q += 32) {
    for (int i = 0; i < 4; i++) {
      uint32_t first = word(q, 2 * i), second = word(q, 2 * i + 1);
      put(out[s][i], r, low_pair(first, second));
      put(out[s + 1][i], r, high_pair(first, second));
    }
  }
}

void pack_q4_k(const RawQ4_K& raw, int r, PackedQ4_K& out) {
  out.d[r] = raw.d;
  out.dmin[r] = raw.dmin;
  put_scales(raw.scales, r, out);
  put_wide_nibbles(raw.q, r, out.q);
}

void floats_q4_k(const PackedQ4_K& p, int r, float* out) {
  for (int s = 0; s < 8; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r], m = half_value(p.dmin[r]) * (float)p.min[s / 2][r][s % 2];
    for (int k = 0; k < 32; k++) *out++ = d * (float)field<4>(p.q[s], r, k) - m;
  }
}

void pack_q5_k(const RawQ5_K& raw, int r, PackedQ5_K& out) {
  out.d[r] = raw.d;
  out.dmin[r] = raw.dmin;
  put_scales(raw.scales, r, out);
  put_wide_nibbles(raw.q, r, out.q);
  for (int s = 0; s < 8; s++) {
    uint32_t all = 0;
    for (int g = 0; g < 8; g++) all |= (word(raw.high, g) >> s & 0x01010101u) << g;
    put(out.high[s], r, all);
  }
}

void floats_q5_k(const PackedQ5_K& p, int r, float* out) {
  for (int s = 0; s < 8; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r], m = half_value(p.dmin[r]) * (float)p.min[s / 2][r][s % 2];
    for (int k = 0; k < 32; k++) *out++ = d * (float)(field<4>(p.q[s], r, k) | field<1>(&p.high[s], r, k) << 4) - m;
  }
}

void pack_q6_k(const RawQ6_K& raw, int r, PackedQ6_K& out) {
  out.d[r] = raw.d;
  for (int s = 0; s < 16; s++) {
    out.scale[s][r] = raw.scales[s];
    int half = s / 8, part = s % 8 / 2, first = s % 2 * 4;  // quarter of 32 columns within a half of 128
    uint32_t low[4], high[4];
    for (int g = 0; g < 4; g++) {
      low[g] = word(raw.low + 64 * half + 32 * (part % 2), first + g) >> (part < 2 ? 0 : 4) & kLow;
      high[g] = word(raw.high + 32 * half, first + g) >> (2 * part) & 0x03030303u;
    }
    put(out.low[s][0], r, low_pair(low[0], low[1]));
    put(out.low[s][1], r, low_pair(low[2], low[3]));
    put(out.high[s], r, side_by_side(high[0], high[1], high[2], high[3], 2));
  }
}

void floats_q6_k(const PackedQ6_K& p, int r, float* out) {
  for (int s = 0; s < 16; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r];
    for (int k = 0; k < 16; k++) *out++ = d * (float)((field<4>(p.low[s], r, k) | field<2>(&p.high[s], r, k) << 4) - 32);
  }
}

void pack_iq4_xs(const RawIQ4_XS& raw, int r, PackedIQ4_XS& out) {
  out.d[r] = raw.d;
  for (int s = 0; s < 8; s++) {
    int low = raw.scales_low[s / 2] >> (4 * (s % 2)) & 15, high = raw.scales_high >> (2 * s) & 3;
    out.scale[s][r] = (int8_t)((low | high << 4) - 32);
    put_nibbles(raw.q + 16 * s, r, out.q[s]);
  }
}

void floats_iq4_xs(const PackedIQ4_XS& p, int r, float* out) {
  for (int s = 0; s < 8; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r];
    for (int k = 0; k < 32; k++) *out++ = d * (float)kIQ4Levels[field<4>(p.q[s], r, k)];
  }
}

template <class Raw, class Packed, void (*one)(const Raw&, int, Packed&), void (*floats)(const Packed&, int, float*)>
constexpr Format format(Type type) {
  return {type, 256, sizeof(Raw), sizeof(Packed), pack<Raw, Packed, one>, unpack<Packed, 256, floats>, nullptr};
}

}  // namespace

const Format kQ2_K = format<RawQ2_K, PackedQ2_K, pack_q2_k, floats_q2_k>(Type::Q2_K);
const Format kQ3_K = format<RawQ3_K, PackedQ3_K, pack_q3_k, floats_q3_k>(Type::Q3_K);
const Format kQ4_K = format<RawQ4_K, PackedQ4_K, pack_q4_k, floats_q4_k>(Type::Q4_K);
const Format kQ5_K = format<RawQ5_K, PackedQ5_K, pack_q5_k, floats_q5_k>(Type::Q5_K);
const Format kQ6_K = format<RawQ6_K, PackedQ6_K, pack_q6_k, floats_q6_k>(Type::Q6_K);
const Format kIQ4_XS = format<RawIQ4_XS, PackedIQ4_XS, pack_iq4_xs, floats_iq4_xs>(Type::IQ4_XS);

}  // namespace linnet
