// Helpers of the block formats: words of four columns, bit fields side by side, packing sixteen rows four at a time.
#pragma once
#include <cstdint>
#include <cstring>

#include "formats.h"

namespace linnet {

// The same word of four neighbouring rows: what is done to one is done to all.
typedef uint32_t Words __attribute__((vector_size(16)));

// One block of each of four rows, of which `first` is the first within its group of sixteen.
template <class Raw>
struct FourRows {
  const Raw* raw[4];
  int first;

  // Word i of an array of bytes in the block.
  template <class Array>
  Words word(Array Raw::* bytes, int i) const {
    Words w;
    for (int r = 0; r < 4; r++) {
      uint32_t one;
      std::memcpy(&one, (const uint8_t*)(raw[r]->*bytes) + 4 * i, 4);
      w[r] = one;
    }
    return w;
  }
  // Calls one(row of the block, its place within the group) for each row.
  template <class One>
  void each(const One& one) const {
    for (int r = 0; r < 4; r++) one(*raw[r], first + r);
  }
  void put(uint8_t* vector, Words w) const { std::memcpy(vector + 4 * first, &w, 16); }
};

constexpr uint32_t kLow = 0x0f0f0f0f, kHigh = 0xf0f0f0f0;

// Nibble groups share bytes: from two words, their low nibbles side by side, or their high ones.
inline Words low_pair(Words first, Words second) { return (first & kLow) | (second & kLow) << 4; }
inline Words high_pair(Words first, Words second) { return ((first >> 4) & kLow) | (second & kHigh); }

// Sixteen bytes of nibbles from word `from` on (column j low, j + 16 high) into four packed vectors.
template <class Raw, class Array>
inline void put_nibbles(const FourRows<Raw>& rows, Array Raw::* q, int from, uint8_t (*out)[64]) {
  Words w0 = rows.word(q, from), w1 = rows.word(q, from + 1), w2 = rows.word(q, from + 2), w3 = rows.word(q, from + 3);
  rows.put(out[0], low_pair(w0, w1));
  rows.put(out[1], low_pair(w2, w3));
  rows.put(out[2], high_pair(w0, w1));
  rows.put(out[3], high_pair(w2, w3));
}

// Value of `bits` bits at column k of row r, where 8 / bits groups share each byte.
template <int bits>
inline int field(const uint8_t (*q)[64], int r, int k) {
  constexpr int groups = 8 / bits;
  return q[k / (4 * groups)][4 * r + k % 4] >> (k / 4 % groups * bits) & ((1 << bits) - 1);
}

// Packs any block format: four(blocks of four rows, packed block) places them; absent rows become zeros.
template <class Raw, class Packed, void (*four)(const FourRows<Raw>&, Packed&)>
void pack(const uint8_t* const rows[kRows], int64_t blocks, void* packed) {
  static const Raw zero{};
  Packed* out = (Packed*)packed;
  for (int64_t b = 0; b < blocks; b++) {
    for (int r = 0; r < kRows; r += 4) {
      FourRows<Raw> group{{}, r};
      for (int i = 0; i < 4; i++) {
        const Raw* row = (const Raw*)rows[r + i];
        group.raw[i] = row ? row + b : &zero;
      }
      four(group, out[b]);
    }
  }
}

// Floats of row r of a packed group: one(packed block, row, out) writes a block's `columns` values.
template <class Packed, int columns, void (*one)(const Packed&, int row, float* out)>
void unpack(const void* group, int r, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; b++) one(((const Packed*)group)[b], r, out + b * columns);
}

}  // namespace linnet
