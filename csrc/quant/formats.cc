#include "formats.h"

#include <cmath>
#include <cstring>

#define LINNET_ISA formats
#include "../kernels/simd.h"  // the half conversions

namespace linnet {

float half_value(uint16_t h) { return formats::half_to_float(h); }
uint16_t half_bits(float f) { return formats::float_to_half(f); }

namespace {

constexpr uint32_t kLow = 0x0f0f0f0f, kHigh = 0xf0f0f0f0;

inline uint32_t word(const void* p, int i) {
  uint32_t w;
  std::memcpy(&w, (const uint8_t*)p + 4 * i, 4);
  return w;
}
inline void put(void* p, uint32_t w) { std::memcpy(p, &w, 4); }

// Two words of eight nibble pairs each side: low nibbles of both side by side, or high nibbles.
inline uint32_t low_pair(uint32_t first, uint32_t second) { return (first & kLow) | (second & kLow) << 4; }
inline uint32_t high_pair(uint32_t first, uint32_t second) { return ((first >> 4) & kLow) | (second & kHigh); }

// Packs any block format: clears the group, then lets `one` place each present row's block.
template <class Raw, class Packed, void (*one)(const Raw&, int lane, Packed&)>
void pack(const uint8_t* const rows[kRows], int64_t blocks, void* packed) {
  Packed* out = (Packed*)packed;
  for (int64_t b = 0; b < blocks; b++) {
    for (int r = 0; r < kRows; r++) {
      if (rows[r]) {
        one(((const Raw*)rows[r])[b], r, out[b]);
      } else {
        static const Raw zero{};
        one(zero, r, out[b]);
      }
    }
  }
}

void pack_q4_0(const RawQ4_0& raw, int r, PackedQ4_0& out) {
  out.d[r] = raw.d;
  uint32_t w0 = word(raw.q, 0), w1 = word(raw.q, 1), w2 = word(raw.q, 2), w3 = word(raw.q, 3);
  put(out.q[0] + 4 * r, low_pair(w0, w1));
  put(out.q[1] + 4 * r, low_pair(w2, w3));
  put(out.q[2] + 4 * r, high_pair(w0, w1));
  put(out.q[3] + 4 * r, high_pair(w2, w3));
}

// Column k of row r in nibble-packed groups of 64 bytes.
inline int nibble(const uint8_t (*q)[64], int r, int k) {
  int byte = q[k / 8][4 * r + k % 4];
  return k / 4 % 2 ? byte >> 4 : byte & 15;
}

void q4_0_to_floats(const void* group, int r, int64_t blocks, float* out) {
  const PackedQ4_0* p = (const PackedQ4_0*)group;
  for (int64_t b = 0; b < blocks; b++) {
    float d = half_value(p[b].d[r]);
    for (int k = 0; k < 32; k++) *out++ = d * (float)(nibble(p[b].q, r, k) - 8);
  }
}

void q4_0_from_floats(const float* x, int64_t blocks, uint8_t* raw) {
  RawQ4_0* out = (RawQ4_0*)raw;
  for (int64_t b = 0; b < blocks; b++, x += 32) {
    float extreme = 0;
    for (int k = 0; k < 32; k++) extreme = std::fabs(x[k]) > std::fabs(extreme) ? x[k] : extreme;
    float d = extreme / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    out[b].d = half_bits(d);
    auto level = [&](float v) {
      int q = (int)(v * inverse + 8.5f);
      return (uint8_t)(q > 15 ? 15 : q);
    };
    for (int k = 0; k < 16; k++) out[b].q[k] = (uint8_t)(level(x[k]) | level(x[k + 16]) << 4);
  }
}

void pack_q8_0(const RawQ8_0& raw, int r, PackedQ8_0& out) {
  out.d[r] = raw.d;
  for (int g = 0; g < 8; g++) put(out.q[g] + 4 * r, word(raw.q, g));
}

void q8_0_to_floats(const void* group, int r, int64_t blocks, float* out) {
  const PackedQ8_0* p = (const PackedQ8_0*)group;
  for (int64_t b = 0; b < blocks; b++) {
    float d = half_value(p[b].d[r]);
    for (int k = 0; k < 32; k++) *out++ = d * (float)p[b].q[k / 4][4 * r + k % 4];
  }
}

void q8_0_from_floats(const float* x, int64_t blocks, uint8_t* raw) {
  RawQ8_0* out = (RawQ8_0*)raw;
  for (int64_t b = 0; b < blocks; b++, x += 32) {
    float largest = 0;
    for (int k = 0; k < 32; k++) largest = std::fabs(x[k]) > largest ? std::fabs(x[k]) : largest;
    float d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    out[b].d = half_bits(d);
    for (int k = 0; k < 32; k++) out[b].q[k] = (int8_t)std::round(x[k] * inverse);
  }
}

// Six-bit scale and min of sub-block s, from ggml's 12 bytes.
inline void q4_k_scale(const uint8_t* packed, int s, uint8_t& scale, uint8_t& min) {
  if (s < 4) {
    scale = packed[s] & 63;
    min = packed[s + 4] & 63;
  } else {
    scale = (uint8_t)((packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4);
    min = (uint8_t)((packed[s + 4] >> 4) | (packed[s] >> 6) << 4);
  }
}

void pack_q4_k(const RawQ4_K& raw, int r, PackedQ4_K& out) {
  out.d[r] = raw.d;
  out.dmin[r] = raw.dmin;
  for (int s = 0; s < 8; s++) q4_k_scale(raw.scales, s, out.scale[s][r], out.min[s / 2][r][s % 2]);
  for (int chunk = 0; chunk < 4; chunk++) {  // 64 columns: 32 low nibbles, then 32 high ones
    const uint8_t* q = raw.q + 32 * chunk;
    for (int i = 0; i < 4; i++) {
      uint32_t first = word(q, 2 * i), second = word(q, 2 * i + 1);
      put(out.q[2 * chunk][i] + 4 * r, low_pair(first, second));
      put(out.q[2 * chunk + 1][i] + 4 * r, high_pair(first, second));
    }
  }
}

void q4_k_to_floats(const void* group, int r, int64_t blocks, float* out) {
  const PackedQ4_K* p = (const PackedQ4_K*)group;
  for (int64_t b = 0; b < blocks; b++) {
    for (int s = 0; s < 8; s++) {
      float d = half_value(p[b].d[r]) * (float)p[b].scale[s][r], m = half_value(p[b].dmin[r]) * (float)p[b].min[s / 2][r][s % 2];
      for (int k = 0; k < 32; k++) *out++ = d * (float)nibble(p[b].q[s], r, k) - m;
    }
  }
}

void pack_q6_k(const RawQ6_K& raw, int r, PackedQ6_K& out) {
  out.d[r] = raw.d;
  for (int s = 0; s < 16; s++) {
    out.scale[s][r] = raw.scales[s];
    int half = s / 8, part = s % 8 / 2, first = s % 2 * 4;  // quarter of 32 columns within a half of 128
    uint32_t group[4];
    for (int g = 0; g < 4; g++) {
      uint32_t low = word(raw.low + 64 * half + 32 * (part % 2), first + g), high = word(raw.high + 32 * half, first + g);
      group[g] = ((part < 2 ? low : low >> 4) & kLow) | ((high >> (2 * part)) & 0x03030303u) << 4;
    }
    put(out.low[s][0] + 4 * r, low_pair(group[0], group[1]));
    put(out.low[s][1] + 4 * r, low_pair(group[2], group[3]));
    uint32_t high = 0;
    for (int g = 0; g < 4; g++) high |= ((group[g] >> 4) & 0x03030303u) << (2 * g);
    put(out.high[s] + 4 * r, high);
  }
}

void q6_k_to_floats(const void* group, int r, int64_t blocks, float* out) {
  const PackedQ6_K* p = (const PackedQ6_K*)group;
  for (int64_t b = 0; b < blocks; b++) {
    for (int s = 0; s < 16; s++) {
      float d = half_value(p[b].d[r]) * (float)p[b].scale[s][r];
      for (int k = 0; k < 16; k++) {
        int high = p[b].high[s][4 * r + k % 4] >> (2 * (k / 4)) & 3;
        *out++ = d * (float)((nibble(p[b].low[s], r, k) | high << 4) - 32);
      }
    }
  }
}

void f32_to_floats(const void* row, int, int64_t count, float* out) { std::memcpy(out, row, 4 * (size_t)count); }
void f32_from_floats(const float* x, int64_t count, uint8_t* raw) { std::memcpy(raw, x, 4 * (size_t)count); }

void f16_to_floats(const void* row, int, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h;
    std::memcpy(&h, (const uint8_t*)row + 2 * i, 2);
    out[i] = half_value(h);
  }
}
void f16_from_floats(const float* x, int64_t count, uint8_t* raw) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h = half_bits(x[i]);
    std::memcpy(raw + 2 * i, &h, 2);
  }
}

void bf16_to_floats(const void* row, int, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h;
    std::memcpy(&h, (const uint8_t*)row + 2 * i, 2);
    uint32_t bits = (uint32_t)h << 16;
    std::memcpy(&out[i], &bits, 4);
  }
}
void bf16_from_floats(const float* x, int64_t count, uint8_t* raw) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    std::memcpy(&bits, &x[i], 4);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    uint16_t h = (uint16_t)(nan ? (bits >> 16) | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // ties to even
    std::memcpy(raw + 2 * i, &h, 2);
  }
}

const Format kFormats[] = {
    {Type::F32, 1, 4, 0, nullptr, f32_to_floats, f32_from_floats},
    {Type::F16, 1, 2, 0, nullptr, f16_to_floats, f16_from_floats},
    {Type::BF16, 1, 2, 0, nullptr, bf16_to_floats, bf16_from_floats},
    {Type::Q4_0, 32, sizeof(RawQ4_0), sizeof(PackedQ4_0), pack<RawQ4_0, PackedQ4_0, pack_q4_0>, q4_0_to_floats, q4_0_from_floats},
    {Type::Q8_0, 32, sizeof(RawQ8_0), sizeof(PackedQ8_0), pack<RawQ8_0, PackedQ8_0, pack_q8_0>, q8_0_to_floats, q8_0_from_floats},
    {Type::Q4_K, 256, sizeof(RawQ4_K), sizeof(PackedQ4_K), pack<RawQ4_K, PackedQ4_K, pack_q4_k>, q4_k_to_floats, nullptr},
    {Type::Q6_K, 256, sizeof(RawQ6_K), sizeof(PackedQ6_K), pack<RawQ6_K, PackedQ6_K, pack_q6_k>, q6_k_to_floats, nullptr},
};

}  // namespace

const Format* format_of(int gguf_id) {
  for (const Format& f : kFormats) {
    if ((int)f.type == gguf_id) return &f;
  }
  return nullptr;
}

}  // namespace linnet
