// Helpers of the block formats: words of four columns, bit fields side by side, packing sixteen rows.
#pragma once
#include <cstdint>
#include <cstring>

#include "formats.h"

namespace linnet {

inline uint32_t word(const void* p, int i) {
  uint32_t w;
  std::memcpy(&w, (const uint8_t*)p + 4 * i, 4);
  return w;
}
inline void put(uint8_t* p, int r, uint32_t w) { std::memcpy(p + 4 * r, &w, 4); }

constexpr uint32_t kLow = 0x0f0f0f0f, kHigh = 0xf0f0f0f0;

// Nibble groups share bytes: from two words, their low nibbles side by side, or their high ones.
inline uint32_t low_pair(uint32_t first, uint32_t second) { return (first & kLow) | (second & kLow) << 4; }
inline uint32_t high_pair(uint32_t first, uint32_t second) { return ((first >> 4) & kLow) | (second & kHigh); }

// Sixteen bytes of nibbles (column j low, j + 16 high) of row r into four packed vectors.
inline void put_nibbles(const uint8_t* q, int r, uint8_t (*out)[64]) {
  uint32_t w0 = word(q, 0), w1 = word(q, 1), w2 = word(q, 2), w3 = word(q, 3);
  put(out[0], r, low_pair(w0, w1));
  put(out[1], r, low_pair(w2, w3));
  put(out[2], r, high_pair(w0, w1));
  put(out[3], r, high_pair(w2, w3));
}

// Value of `bits` bits at column k of row r, where 8 / bits groups share each byte.
template <int bits>
inline int field(const uint8_t (*q)[64], int r, int k) {
  constexpr int groups = 8 / bits;
  return q[k / (4 * groups)][4 * r + k % 4] >> (k / 4 % groups * bits) & ((1 << bits) - 1);
}

// Packs any block format: one(raw block, row, packed block) places each row's block; absent rows become zeros.
template <class Raw, class Packed, void (*one)(const Raw&, int row, Packed&)>
void pack(const uint8_t* const rows[kRows], int64_t blocks, void* packed) {
  static const Raw zero{};
  Packed* out = (Packed*)packed;
  for (int64_t b = 0; b < blocks; b++) {
    for (int r = 0; r < kRows; r++) one(rows[r] ? ((const Raw*)rows[r])[b] : zero, r, out[b]);
  }
}

// Floats of row r of a packed group: one(packed block, row, out) writes a block's `columns` values.
template <class Packed, int columns, void (*one)(const Packed&, int row, float* out)>
void unpack(const void* group, int r, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; b++) one(((const Packed*)group)[b], r, out + b * columns);
}

}  // namespace linnet
