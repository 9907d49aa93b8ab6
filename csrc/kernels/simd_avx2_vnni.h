// Dot products by vpdpbusd, which widens to int32 as it goes. AVX-VNNI's encoding of it, or AVX-512VL's: that one lets a
// processor that has AVX-512 and no AVX-VNNI test this file.
#pragma once

using Acc = I;                    // int32
using Signed = I;                 // weights plus 128, unsigned
using Scale = I;                  // int32
constexpr bool kWideSums = true;  // unsigned dot products run in int32

static inline Signed signed_bytes(B x) {
  __m256i offset = _mm256_set1_epi8((char)0x80);
  return Signed{_mm256_xor_si256(x.a, offset), _mm256_xor_si256(x.b, offset)};
}
static inline uint32_t offset_word(int even, int odd, int factor) { return (uint32_t)(factor * (even + odd)); }
static inline Acc acc_zero() { return i_zero(); }
static inline Acc acc_twice(__m256i half) { return Acc{half, half}; }
template <int shift>
static inline Acc acc_start(const uint32_t* offset) {
  constexpr int left = shift > 0 ? shift : 0, right = shift < 0 ? -shift : 0;
  __m256i word = broadcast4(offset);
  return acc_twice(left ? _mm256_slli_epi32(word, left) : right ? _mm256_srai_epi32(word, right) : word);
}
// Signed weights carry +128: from -8 * sum (Q8_0), or from -32 * sum of both halves (Q8_K).
static inline Acc acc_start_signed(const uint32_t* offset) { return acc_start<4>(offset); }
static inline Acc acc_start_signed(const uint32_t* first, const uint32_t* second) {
  return acc_twice(_mm256_slli_epi32(_mm256_add_epi32(broadcast4(first), broadcast4(second)), 2));
}
static inline __m256i dot_half(__m256i sum, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sum, w, x);
#else
  return _mm256_dpbusd_epi32(sum, w, x);
#endif
}
static inline void acc_add(Acc& r, B w, const int8_t* x) {
  __m256i v = broadcast4(x);
  r.a = dot_half(r.a, w.a, v);
  r.b = dot_half(r.b, w.b, v);
}
static inline void acc_add_signed(Acc& r, Signed w, const int8_t* x) { acc_add(r, w, x); }
static inline I acc_sum(Acc x) { return x; }
static inline I acc_sum_signed(Acc x) { return x; }
static inline Scale scale_u8(const uint8_t* p) { return i_from_u8(p); }
static inline Scale scale_i8(const int8_t* p) { return i_from_i8(p); }
template <int odd>
static inline Scale scale_nibbles(const uint8_t* p) {
  return i_from_nibbles<odd>(p);
}
static inline I acc_scale(I total, Acc x, Scale s) { return i_multiply_add(total, x, s); }
