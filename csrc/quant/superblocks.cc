// Super-blocks of 256 columns: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS.
#include "block_pack.h"

namespace linnet {

namespace {

// Word i of four columns of sub-block s (16 columns) of Q2_K and Q3_K: 2-bit fields that ggml keeps 32 columns apart.
template <class Raw>
inline Words two_bits(const FourRows<Raw>& rows, int s, int i) {
  return rows.word(&Raw::q, 8 * (s / 8) + 4 * (s % 2) + i) >> (2 * (s % 8 / 2)) & 0x03030303u;
}

inline Words side_by_side(Words g0, Words g1, Words g2, Words g3, int bits) {
  return g0 | g1 << bits | g2 << (2 * bits) | g3 << (3 * bits);
}

template <class Raw>
void put_two_bits(const FourRows<Raw>& rows, uint8_t (*out)[64]) {
  for (int s = 0; s < 16; s++) {
    rows.put(out[s], side_by_side(two_bits(rows, s, 0), two_bits(rows, s, 1), two_bits(rows, s, 2), two_bits(rows, s, 3), 2));
  }
}

// Bit `bit` of each of 32 bytes, side by side.
template <class Raw>
void put_one_bits(const FourRows<Raw>& rows, int bit, uint8_t* out) {
  Words all = {};
  for (int g = 0; g < 8; g++) all |= (rows.word(&Raw::high, g) >> bit & 0x01010101u) << g;
  rows.put(out, all);
}

void pack_q2_k(const FourRows<RawQ2_K>& rows, PackedQ2_K& out) {
  rows.each([&](const RawQ2_K& raw, int r) {
    out.d[r] = raw.d;
    out.dmin[r] = raw.dmin;
    for (int s = 0; s < 16; s++) out.scale[s / 2][r][s % 2] = raw.scales[s];
  });
  put_two_bits(rows, out.q);
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

void pack_q3_k(const FourRows<RawQ3_K>& rows, PackedQ3_K& out) {
  rows.each([&](const RawQ3_K& raw, int r) {
    out.d[r] = raw.d;
    for (int s = 0; s < 16; s++) out.scale[s][r] = (int8_t)q3_k_scale(raw.scales, s);
  });
  put_two_bits(rows, out.q);
  for (int pair = 0; pair < 8; pair++) put_one_bits(rows, pair, out.high[pair]);  // 32 columns share a bit of 32 bytes
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
template <class Raw>
void put_wide_nibbles(const FourRows<Raw>& rows, uint8_t (*out)[4][64]) {
  for (int s = 0; s < 8; s += 2) {
    for (int i = 0; i < 4; i++) {
      Words first = rows.word(&Raw::q, 4 * s + 2 * i), second = rows.word(&Raw::q, 4 * s + 2 * i + 1);
      rows.put(out[s][i], low_pair(first, second));
      rows.put(out[s + 1][i], high_pair(first, second));
    }
  }
}

// What Q4_K and Q5_K have in common.
template <class Raw, class Packed>
void pack_six_bit_scales(const FourRows<Raw>& rows, Packed& out) {
  rows.each([&](const Raw& raw, int r) {
    out.d[r] = raw.d;
    out.dmin[r] = raw.dmin;
    put_scales(raw.scales, r, out);
  });
  put_wide_nibbles(rows, out.q);
}

void pack_q4_k(const FourRows<RawQ4_K>& rows, PackedQ4_K& out) { pack_six_bit_scales(rows, out); }

void floats_q4_k(const PackedQ4_K& p, int r, float* out) {
  for (int s = 0; s < 8; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r], m = half_value(p.dmin[r]) * (float)p.min[s / 2][r][s % 2];
    for (int k = 0; k < 32; k++) *out++ = d * (float)field<4>(p.q[s], r, k) - m;
  }
}

void pack_q5_k(const FourRows<RawQ5_K>& rows, PackedQ5_K& out) {
  pack_six_bit_scales(rows, out);
  for (int s = 0; s < 8; s++) put_one_bits(rows, s, out.high[s]);
}

void floats_q5_k(const PackedQ5_K& p, int r, float* out) {
  for (int s = 0; s < 8; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r], m = half_value(p.dmin[r]) * (float)p.min[s / 2][r][s % 2];
    for (int k = 0; k < 32; k++) *out++ = d * (float)(field<4>(p.q[s], r, k) | field<1>(&p.high[s], r, k) << 4) - m;
  }
}

void pack_q6_k(const FourRows<RawQ6_K>& rows, PackedQ6_K& out) {
  rows.each([&](const RawQ6_K& raw, int r) {
    out.d[r] = raw.d;
    for (int s = 0; s < 16; s++) out.scale[s][r] = raw.scales[s];
  });
  for (int s = 0; s < 16; s++) {
    int half = s / 8, part = s % 8 / 2, first = s % 2 * 4;  // quarter of 32 columns within a half of 128
    Words low[4], high[4];
    for (int g = 0; g < 4; g++) {
      low[g] = rows.word(&RawQ6_K::low, 16 * half + 8 * (part % 2) + first + g) >> (part < 2 ? 0 : 4) & kLow;
      high[g] = rows.word(&RawQ6_K::high, 8 * half + first + g) >> (2 * part) & 0x03030303u;
    }
    rows.put(out.low[s][0], low_pair(low[0], low[1]));
    rows.put(out.low[s][1], low_pair(low[2], low[3]));
    rows.put(out.high[s], side_by_side(high[0], high[1], high[2], high[3], 2));
  }
}

void floats_q6_k(const PackedQ6_K& p, int r, float* out) {
  for (int s = 0; s < 16; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r];
    for (int k = 0; k < 16; k++) *out++ = d * (float)((field<4>(p.low[s], r, k) | field<2>(&p.high[s], r, k) << 4) - 32);
  }
}

void pack_iq4_xs(const FourRows<RawIQ4_XS>& rows, PackedIQ4_XS& out) {
  rows.each([&](const RawIQ4_XS& raw, int r) {
    out.d[r] = raw.d;
    for (int s = 0; s < 8; s++) {
      int low = raw.scales_low[s / 2] >> (4 * (s % 2)) & 15, high = raw.scales_high >> (2 * s) & 3;
      out.scale[s][r] = (int8_t)((low | high << 4) - 32);
    }
  });
  for (int s = 0; s < 8; s++) put_nibbles(rows, &RawIQ4_XS::q, 4 * s, out.q[s]);
}

void floats_iq4_xs(const PackedIQ4_XS& p, int r, float* out) {
  for (int s = 0; s < 8; s++) {
    float d = half_value(p.d[r]) * (float)p.scale[s][r];
    for (int k = 0; k < 32; k++) *out++ = d * (float)kIQ4Levels[field<4>(p.q[s], r, k)];
  }
}

template <class Raw, class Packed, void (*four)(const FourRows<Raw>&, Packed&), void (*floats)(const Packed&, int, float*)>
constexpr Format format(Type type) {
  return {type, 256, sizeof(Raw), sizeof(Packed), pack<Raw, Packed, four>, unpack<Packed, 256, floats>};
}

}  // namespace

const Format kQ2_K = format<RawQ2_K, PackedQ2_K, pack_q2_k, floats_q2_k>(Type::Q2_K);
const Format kQ3_K = format<RawQ3_K, PackedQ3_K, pack_q3_k, floats_q3_k>(Type::Q3_K);
const Format kQ4_K = format<RawQ4_K, PackedQ4_K, pack_q4_k, floats_q4_k>(Type::Q4_K);
const Format kQ5_K = format<RawQ5_K, PackedQ5_K, pack_q5_k, floats_q5_k>(Type::Q5_K);
const Format kQ6_K = format<RawQ6_K, PackedQ6_K, pack_q6_k, floats_q6_k>(Type::Q6_K);
const Format kIQ4_XS = format<RawIQ4_XS, PackedIQ4_XS, pack_iq4_xs, floats_iq4_xs>(Type::IQ4_XS);

}  // namespace linnet
