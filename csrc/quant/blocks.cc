// Blocks of 32 columns: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
#include <cmath>

#include "block_pack.h"

namespace linnet {

namespace {

template <class Raw>
void pack_nibbles(const FourRows<Raw>& rows, PackedQ4_0& out) {
  rows.each([&](const Raw& raw, int r) { out.d[r] = raw.d; });
  put_nibbles(rows, &Raw::q, 0, out.q);
}

void floats_q4_0(const PackedQ4_0& p, int r, float* out) {
  float d = half_value(p.d[r]);
  for (int k = 0; k < 32; k++) out[k] = d * (float)(field<4>(p.q, r, k) - 8);
}

void floats_iq4_nl(const PackedIQ4_NL& p, int r, float* out) {
  float d = half_value(p.d[r]);
  for (int k = 0; k < 32; k++) out[k] = d * (float)kIQ4Levels[field<4>(p.q, r, k)];
}

void pack_q4_1(const FourRows<RawQ4_1>& rows, PackedQ4_1& out) {
  rows.each([&](const RawQ4_1& raw, int r) {
    out.d[r] = raw.d;
    out.m[r] = raw.m;
  });
  put_nibbles(rows, &RawQ4_1::q, 0, out.q);
}

void floats_q4_1(const PackedQ4_1& p, int r, float* out) {
  float d = half_value(p.d[r]), m = half_value(p.m[r]);
  for (int k = 0; k < 32; k++) out[k] = d * (float)field<4>(p.q, r, k) + m;
}

// Bits 4g to 4g + 3 of `bits`, one to a byte, moved to bit g: where group g's fifth bits stand.
inline uint32_t fifth_bits(uint32_t bits, int g) {
  uint32_t four = bits >> (4 * g) & 15, spread = 0;
  for (int j = 0; j < 4; j++) spread |= (four >> j & 1) << (8 * j + g);
  return spread;
}

template <class Raw>
void put_fifth_bits(const FourRows<Raw>& rows, uint8_t* out) {
  rows.each([&](const Raw& raw, int r) {
    uint32_t all = 0;
    for (int g = 0; g < 8; g++) all |= fifth_bits(raw.high, g);
    std::memcpy(out + 4 * r, &all, 4);
  });
}

inline int five_bits(const uint8_t (*q)[64], const uint8_t (&high)[64], int r, int k) {
  return field<4>(q, r, k) | field<1>(&high, r, k) << 4;
}

void pack_q5_0(const FourRows<RawQ5_0>& rows, PackedQ5_0& out) {
  rows.each([&](const RawQ5_0& raw, int r) { out.d[r] = raw.d; });
  put_nibbles(rows, &RawQ5_0::q, 0, out.q);
  put_fifth_bits(rows, out.high);
}

void floats_q5_0(const PackedQ5_0& p, int r, float* out) {
  float d = half_value(p.d[r]);
  for (int k = 0; k < 32; k++) out[k] = d * (float)(five_bits(p.q, p.high, r, k) - 16);
}

void pack_q5_1(const FourRows<RawQ5_1>& rows, PackedQ5_1& out) {
  rows.each([&](const RawQ5_1& raw, int r) {
    out.d[r] = raw.d;
    out.m[r] = raw.m;
  });
  put_nibbles(rows, &RawQ5_1::q, 0, out.q);
  put_fifth_bits(rows, out.high);
}

void floats_q5_1(const PackedQ5_1& p, int r, float* out) {
  float d = half_value(p.d[r]), m = half_value(p.m[r]);
  for (int k = 0; k < 32; k++) out[k] = d * (float)five_bits(p.q, p.high, r, k) + m;
}

void pack_q8_0(const FourRows<RawQ8_0>& rows, PackedQ8_0& out) {
  rows.each([&](const RawQ8_0& raw, int r) { out.d[r] = raw.d; });
  for (int g = 0; g < 8; g++) rows.put((uint8_t*)out.q[g], rows.word(&RawQ8_0::q, g));
}

void floats_q8_0(const PackedQ8_0& p, int r, float* out) {
  float d = half_value(p.d[r]);
  for (int k = 0; k < 32; k++) out[k] = d * (float)p.q[k / 4][4 * r + k % 4];
}

void pack_mxfp4(const FourRows<RawMXFP4>& rows, PackedMXFP4& out) {
  rows.each([&](const RawMXFP4& raw, int r) { out.e[r] = raw.e; });
  put_nibbles(rows, &RawMXFP4::q, 0, out.q);
}

void floats_mxfp4(const PackedMXFP4& p, int r, float* out) {
  float d = std::ldexp(1.0f, p.e[r] - 128);  // half of 2^(e - 127): the levels are doubled
  for (int k = 0; k < 32; k++) out[k] = d * (float)kE2M1Doubled[field<4>(p.q, r, k)];
}

template <class Raw, class Packed, void (*four)(const FourRows<Raw>&, Packed&), void (*floats)(const Packed&, int, float*)>
constexpr Format format(Type type) {
  return {type, 32, sizeof(Raw), sizeof(Packed), pack<Raw, Packed, four>, unpack<Packed, 32, floats>};
}

}  // namespace

const Format kQ4_0 = format<RawQ4_0, PackedQ4_0, pack_nibbles<RawQ4_0>, floats_q4_0>(Type::Q4_0);
const Format kQ4_1 = format<RawQ4_1, PackedQ4_1, pack_q4_1, floats_q4_1>(Type::Q4_1);
const Format kQ5_0 = format<RawQ5_0, PackedQ5_0, pack_q5_0, floats_q5_0>(Type::Q5_0);
const Format kQ5_1 = format<RawQ5_1, PackedQ5_1, pack_q5_1, floats_q5_1>(Type::Q5_1);
const Format kQ8_0 = format<RawQ8_0, PackedQ8_0, pack_q8_0, floats_q8_0>(Type::Q8_0);
const Format kIQ4_NL = format<RawIQ4_NL, PackedIQ4_NL, pack_nibbles<RawIQ4_NL>, floats_iq4_nl>(Type::IQ4_NL);
const Format kMXFP4 = format<RawMXFP4, PackedMXFP4, pack_mxfp4, floats_mxfp4>(Type::MXFP4);

}  // namespace linnet
