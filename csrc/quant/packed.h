// Block formats: as GGUF stores them, and as the kernels read them.
//
// A packed block holds the same values as sixteen raw blocks of sixteen neighbouring rows, lane by lane: byte group g
// (four consecutive columns) of row r stands at 64 * g + 4 * r, so that one 64-byte load feeds sixteen rows. Two
// groups share a byte in the 4-bit formats (the even one in the low nibble). Values and scales are unchanged.
// Raw layouts follow ggml (https://github.com/ggml-org/ggml, ggml-common.h).
#pragma once
#include <cstdint>

namespace linnet {

constexpr int kRows = 16;  // rows interleaved in a packed block

enum class Type : int { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30 };

#pragma pack(push, 1)
struct RawQ4_0 {  // w = d * (q - 8); q[j] holds column j low, j + 16 high
  uint16_t d;
  uint8_t q[16];
};
struct RawQ8_0 {  // w = d * q
  uint16_t d;
  int8_t q[32];
};
struct RawQ4_K {  // w = d * scale * q - dmin * min over 8 sub-blocks of 32; 6-bit scales and mins in 12 bytes
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t q[128];
};
struct RawQ6_K {  // w = d * scale * (q - 32) over 16 sub-blocks of 16
  uint8_t low[128], high[64];
  int8_t scales[16];
  uint16_t d;
};
#pragma pack(pop)

struct PackedQ4_0 {
  uint16_t d[16];
  uint8_t q[4][64];
};
struct PackedQ8_0 {
  uint16_t d[16];
  int8_t q[8][64];
};
struct PackedQ4_K {
  uint16_t d[16], dmin[16];
  uint8_t scale[8][16];
  uint8_t min[4][16][2];  // mins of sub-blocks 2j and 2j + 1 side by side
  uint8_t q[8][4][64];
};
struct PackedQ6_K {
  uint16_t d[16];
  int8_t scale[16][16];
  uint8_t low[16][2][64];  // groups 0 and 1, then 2 and 3, of each sub-block of 16 columns
  uint8_t high[16][64];    // two bits of groups 0 to 3
};
static_assert(sizeof(PackedQ4_0) == 16 * sizeof(RawQ4_0), "packing adds nothing");
static_assert(sizeof(PackedQ8_0) == 16 * sizeof(RawQ8_0), "packing adds nothing");
static_assert(sizeof(PackedQ6_K) == 16 * sizeof(RawQ6_K), "packing adds nothing");

// Activations of `tokens` rows for one block, tokens side by side (a template so that offsets are constants).
// offset: what starts an accumulator, -8 * sum of 32 (Q8_0) or -32 * sum of 16 (Q8_K), in the instruction set's form.
template <int tokens>
struct ActivationQ8_0 {
  int8_t q[tokens][32];
  float d[tokens];
  uint32_t offset[tokens];
};
template <int tokens>
struct ActivationQ8_K {
  int8_t q[tokens][256];
  float d[tokens];
  uint32_t offset[16][tokens];
  int16_t sum[tokens][8];  // of 32 columns each
};

}  // namespace linnet
