// Block formats: as GGUF stores them, and as the kernels read them.
//
// A packed block holds the same values as sixteen raw blocks of sixteen neighbouring rows, lane by lane: byte group g
// (four consecutive columns) of row r stands at 64 * g + 4 * r, so that one 64-byte load feeds sixteen rows. Groups
// of fewer than eight bits share bytes: two groups a byte for nibbles (the even one low), four for pairs of bits, eight
// for single bits. Values and scales are unchanged. Raw layouts follow ggml (ggml-common.h).
#pragma once
#include <cstdint>

namespace linnet {

constexpr int kRows = 16;  // rows interleaved in a packed block

enum class Type : int {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  IQ4_NL = 20,
  IQ4_XS = 23,
  BF16 = 30,
  MXFP4 = 39
};

#pragma pack(push, 1)
// Blocks of 32 columns. Nibble j holds column j low, j + 16 high; qh holds the fifth bit of column j at bit j.
struct RawQ4_0 {  // w = d * (q - 8)
  uint16_t d;
  uint8_t q[16];
};
struct RawQ4_1 {  // w = d * q + m
  uint16_t d, m;
  uint8_t q[16];
};
struct RawQ5_0 {  // w = d * (q - 16)
  uint16_t d;
  uint32_t high;
  uint8_t q[16];
};
struct RawQ5_1 {  // w = d * q + m
  uint16_t d, m;
  uint32_t high;
  uint8_t q[16];
};
struct RawQ8_0 {  // w = d * q
  uint16_t d;
  int8_t q[32];
};
struct RawIQ4_NL {  // w = d * table[q], sixteen levels that are not evenly spaced
  uint16_t d;
  uint8_t q[16];
};
struct RawMXFP4 {  // w = 2^(e - 127) * E2M1 value of q (OCP Microscaling Formats 1.0)
  uint8_t e;
  uint8_t q[16];
};
// Super-blocks of 256 columns.
struct RawQ2_K {  // w = d * scale * q - dmin * min over 16 sub-blocks of 16; scale low, min high nibble
  uint8_t scales[16], q[64];
  uint16_t d, dmin;
};
struct RawQ3_K {  // w = d * (scale - 32) * (q - 4) over 16 sub-blocks of 16
  uint8_t high[32], q[64], scales[12];
  uint16_t d;
};
struct RawQ4_K {  // w = d * scale * q - dmin * min over 8 sub-blocks of 32; 6-bit scales and mins in 12 bytes
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t q[128];
};
struct RawQ5_K {  // as Q4_K, with a fifth bit
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t high[32], q[128];
};
struct RawQ6_K {  // w = d * scale * (q - 32) over 16 sub-blocks of 16
  uint8_t low[128], high[64];
  int8_t scales[16];
  uint16_t d;
};
struct RawIQ4_XS {  // w = d * (scale - 32) * table[q] over 8 sub-blocks of 32
  uint16_t d, scales_high;
  uint8_t scales_low[4], q[128];
};
#pragma pack(pop)

struct PackedQ4_0 {
  uint16_t d[16];
  uint8_t q[4][64];
};
using PackedIQ4_NL = PackedQ4_0;
struct PackedQ4_1 {
  uint16_t d[16], m[16];
  uint8_t q[4][64];
};
struct PackedQ5_0 {
  uint16_t d[16];
  uint8_t q[4][64], high[64];
};
struct PackedQ5_1 {
  uint16_t d[16], m[16];
  uint8_t q[4][64], high[64];
};
struct PackedQ8_0 {
  uint16_t d[16];
  int8_t q[8][64];
};
struct PackedMXFP4 {
  uint8_t e[16];
  uint8_t q[4][64];
};
struct PackedQ2_K {
  uint16_t d[16], dmin[16];
  uint8_t scale[8][16][2];  // scale and min nibbles of sub-blocks 2j and 2j + 1 side by side
  uint8_t q[16][64];
};
struct PackedQ3_K {
  uint16_t d[16];
  int8_t scale[16][16];
  uint8_t q[16][64], high[8][64];  // high: two sub-blocks each
};
struct PackedQ4_K {
  uint16_t d[16], dmin[16];
  uint8_t scale[8][16];
  uint8_t min[4][16][2];  // mins of sub-blocks 2j and 2j + 1 side by side
  uint8_t q[8][4][64];
};
struct PackedQ5_K {
  uint16_t d[16], dmin[16];
  uint8_t scale[8][16];
  uint8_t min[4][16][2];
  uint8_t q[8][4][64], high[8][64];
};
struct PackedQ6_K {
  uint16_t d[16];
  int8_t scale[16][16];
  uint8_t low[16][2][64];  // groups 0 and 1, then 2 and 3, of each sub-block of 16 columns
  uint8_t high[16][64];    // two bits of groups 0 to 3
};
struct PackedIQ4_XS {
  uint16_t d[16];
  int8_t scale[8][16];
  uint8_t q[8][4][64];
};

// The levels of IQ4_NL and IQ4_XS (ggml), and of E2M1 doubled (MXFP4).
constexpr int8_t kIQ4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kE2M1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Activations of `tokens` rows for one block, tokens side by side (a template so that offsets are constants).
// offset: what starts an accumulator, -8 * sum of 32 (Q8_0) or -32 * sum of 16 (Q8_K), in the instruction set's form.
template <int tokens>
struct ActivationQ8_0 {
  int8_t q[tokens][32];
  float d[tokens];
  float sum[tokens];  // scale * sum of q, rounded to float16 as llama.cpp's Q8_1 does; what a format's min multiplies
  uint32_t offset[tokens];
};
template <int tokens>
struct ActivationQ8_K {
  int8_t q[tokens][256];
  float d[tokens];
  uint32_t offset[16][tokens];
  int16_t sum[tokens][8], half_sum[tokens][16];  // of 32 and of 16 columns each
};

}  // namespace linnet
