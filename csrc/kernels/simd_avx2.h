// Sixteen lanes in two 256-bit registers; integer dots by vpmaddubsw or, with AVX-VNNI, vpdpbusd. See simd.h for the contract.
#pragma once

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
using B = I;

static inline F f_zero() { return F{_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline F f_set(float x) { return F{_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F f_load(const float* p) { return F{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void f_store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static inline __m256 bf16_half(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
static inline F f_load_bf16(const uint16_t* p) { return F{bf16_half(p), bf16_half(p + 8)}; }
static inline F f_load_f16(const uint16_t* p) {
  return F{_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
static inline __m256 e8m0_half_half(const uint8_t* p) {
  __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
  __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}
static inline F f_load_e8m0_half(const uint8_t* p) { return F{e8m0_half_half(p), e8m0_half_half(p + 8)}; }
static inline void f_store_f16(uint16_t* p, F x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline __m256i bf16_words(__m256 x) {
  __m256i bits = _mm256_castps_si256(x), even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff))), 16);
  __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(64));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
static inline void f_store_bf16(uint16_t* p, F x) {
  __m256i words = _mm256_packus_epi32(bf16_words(x.a), bf16_words(x.b));  // quarters 0, 2, 1, 3
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(words, 0xd8));
}
static inline F f_add(F x, F y) { return F{_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline F f_sub(F x, F y) { return F{_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline F f_mul(F x, F y) { return F{_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline F f_div(F x, F y) { return F{_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline F f_fma(F x, F y, F z) { return F{_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static inline F f_max(F x, F y) { return F{_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline F f_min(F x, F y) { return F{_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline F f_abs(F x) {
  __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return F{_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
static inline F f_drop_below(F v, F x, float limit) {
  __m256 l = _mm256_set1_ps(limit);
  return F{_mm256_andnot_ps(_mm256_cmp_ps(x.a, l, _CMP_LT_OQ), v.a), _mm256_andnot_ps(_mm256_cmp_ps(x.b, l, _CMP_LT_OQ), v.b)};
}
static inline __m256 power_of_two_half(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline F f_power_of_two(F n) { return F{power_of_two_half(n.a), power_of_two_half(n.b)}; }
static inline F f_round(F x) {
  return F{_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
           _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline float f_first(F x) { return _mm256_cvtss_f32(x.a); }
template <int n>
static inline __m256 swap_half(__m256 x) {
  return n == 4 ? _mm256_permute2f128_ps(x, x, 1) : n == 2 ? _mm256_permute_ps(x, 0x4e) : _mm256_permute_ps(x, 0xb1);
}
template <int n>
static inline F f_swap(F x) {
  return n == 8 ? F{x.b, x.a} : F{swap_half<n>(x.a), swap_half<n>(x.b)};
}
static inline __m256i part_mask(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
static inline F f_load_part(const float* p, int n) {
  return F{_mm256_maskload_ps(p, part_mask(n)), _mm256_maskload_ps(p + 8, part_mask(n - 8))};
}
static inline void f_store_part(float* p, F x, int n) {
  _mm256_maskstore_ps(p, part_mask(n), x.a);
  _mm256_maskstore_ps(p + 8, part_mask(n - 8), x.b);
}
static inline F f_load_twice(const float* p) {
  __m256 v = _mm256_loadu_ps(p), low = _mm256_unpacklo_ps(v, v), high = _mm256_unpackhi_ps(v, v);
  return F{_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
static inline __m256 i8_half(const int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))); }
static inline F f_load_i8(const int8_t* p) { return F{i8_half(p), i8_half(p + 8)}; }
static inline void f_store_i8(int8_t* p, F x) {
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));  // quarters 0, 2, 1, 3
  words = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
static inline float rounded_to_half(float x) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));
}
struct ByteSums {
  int even, odd;
};
static inline ByteSums byte_sums(const int8_t* p) {
  __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), _mm_loadu_si128((const __m128i*)p));  // int16: even, odd, even, ...
  pairs = _mm_add_epi16(pairs, _mm_shuffle_epi32(pairs, 0x4e));
  int both = _mm_cvtsi128_si32(_mm_add_epi16(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
  return ByteSums{(int16_t)both, both >> 16};
}
static inline F f_from_i(I x) { return F{_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline I i_zero() { return I{_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline I i_add(I x, I y) { return I{_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }

static inline B b_load(const void* p) { return B{_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)}; }
template <int from, int to, int width>
static inline __m256i field_half(__m256i x) {
  constexpr int left = to > from ? to - from : 0, right = from > to ? from - to : 0;
  __m256i moved = left ? _mm256_slli_epi16(x, left) : right ? _mm256_srli_epi16(x, right) : x;
  return _mm256_and_si256(moved, _mm256_set1_epi8((char)(((1 << width) - 1) << to)));
}
template <int from, int to, int width>
static inline B b_field(B x) {
  return B{field_half<from, to, width>(x.a), field_half<from, to, width>(x.b)};
}
static inline B b_lookup(B x, const int8_t* table) {
  __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  return B{_mm256_shuffle_epi8(t, x.a), _mm256_shuffle_epi8(t, x.b)};
}
static inline B b_or(B x, B y) { return B{_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
static inline __m256i broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
template <int odd>
static inline __m256i nibbles_half(const uint8_t* p) {
  __m256i pairs = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_and_si256(odd ? _mm256_srli_epi32(pairs, 8) : pairs, _mm256_set1_epi32(15));
}
static inline I i_from_u8(const uint8_t* p) {
  return I{_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
static inline I i_from_i8(const int8_t* p) {
  return I{_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
// Low nibbles of 32 bytes: of the even ones or of the odd ones.
template <int odd>
static inline I i_from_nibbles(const uint8_t* p) {
  return I{nibbles_half<odd>(p), nibbles_half<odd>(p + 16)};
}
static inline I i_multiply_add(I total, I x, I y) {
  return I{_mm256_add_epi32(total.a, _mm256_mullo_epi32(x.a, y.a)), _mm256_add_epi32(total.b, _mm256_mullo_epi32(x.b, y.b))};
}
static inline I i_scale(I total, I sum, const int8_t* scale) { return i_multiply_add(total, sum, i_from_i8(scale)); }
static inline I i_add_high_nibble_pairs(I total, const uint8_t* m, const int16_t* pair) {
  __m256i v = broadcast4(pair);
  __m256i a = _mm256_srli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)m)), 4);
  __m256i b = _mm256_srli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(m + 16))), 4);
  return I{_mm256_add_epi32(total.a, _mm256_madd_epi16(a, v)), _mm256_add_epi32(total.b, _mm256_madd_epi16(b, v))};
}
static inline I i_add_pairs(I total, const uint8_t* m, const int16_t* pair) {
  __m256i v = broadcast4(pair);
  __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)m));
  __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(m + 16)));
  return I{_mm256_add_epi32(total.a, _mm256_madd_epi16(a, v)), _mm256_add_epi32(total.b, _mm256_madd_epi16(b, v))};
}

#if defined(LINNET_AVXVNNI)
#include "simd_avx2_vnni.h"
#else
#include "simd_avx2_pairs.h"
#endif

#define LINNET_KEEP(x) asm("" : "+x"((x).a), "+x"((x).b))
