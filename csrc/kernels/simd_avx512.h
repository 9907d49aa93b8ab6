// Sixteen-lane vectors in one 512-bit register, with VNNI dot products. See simd.h for the contract.
#pragma once

using F = __m512;
using I = __m512i;
using B = __m512i;
using Acc = __m512i;     // int32: vpdpbusd widens as it goes
using Signed = __m512i;  // weights plus 128, unsigned
using Scale = __m512i;   // int32

static inline F f_zero() { return _mm512_setzero_ps(); }
static inline F f_set(float x) { return _mm512_set1_ps(x); }
static inline F f_load(const float* p) { return _mm512_loadu_ps(p); }
static inline void f_store(float* p, F a) { _mm512_storeu_ps(p, a); }
static inline F f_load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
static inline F f_load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline F f_load_e8m0_half(const uint8_t* p) {
  I e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
  I normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
  __mmask16 tiny = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
  return _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, tiny, _mm512_set1_epi32(0x00200000), e));
}
static inline void f_store_f16(uint16_t* p, F a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void f_store_bf16(uint16_t* p, F a) {
  I bits = _mm512_castps_si512(a), even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  I rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff))), 16);
  I quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(64));
  I words = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(words));
}
static inline F f_add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F f_sub(F a, F b) { return _mm512_sub_ps(a, b); }
static inline F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F f_div(F a, F b) { return _mm512_div_ps(a, b); }
static inline F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F f_max(F a, F b) { return _mm512_max_ps(a, b); }
static inline F f_min(F a, F b) { return _mm512_min_ps(a, b); }
static inline F f_abs(F a) { return _mm512_abs_ps(a); }
static inline F f_drop_below(F a, F x, float limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), a);
}
static inline F f_power_of_two(F n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
static inline F f_round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline float f_first(F a) { return _mm512_cvtss_f32(a); }
template <int n>
static inline F f_swap(F a) {
  return n == 8   ? _mm512_shuffle_f32x4(a, a, 0x4e)
         : n == 4 ? _mm512_shuffle_f32x4(a, a, 0xb1)
         : n == 2 ? _mm512_permute_ps(a, 0x4e)
                  : _mm512_permute_ps(a, 0xb1);
}
static inline __mmask16 part_mask(int n) { return (__mmask16)((1u << n) - 1); }
static inline F f_load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(part_mask(n), p); }
static inline void f_store_part(float* p, F a, int n) { _mm512_mask_storeu_ps(p, part_mask(n), a); }
static inline F f_load_twice(const float* p) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                               _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
static inline F f_load_i8(const int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))); }
static inline void f_store_i8(int8_t* p, F a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a))); }
static inline float rounded_to_half(float x) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));
}
struct ByteSums {
  int even, odd;
};
static inline ByteSums byte_sums(const int8_t* p) {
  __m128i sums = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), _mm_loadu_si128((const __m128i*)p));
  sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
  return ByteSums{_mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1))), 0};
}
static inline F f_from_i(I a) { return _mm512_cvtepi32_ps(a); }
static inline I i_zero() { return _mm512_setzero_si512(); }
static inline I i_add(I a, I b) { return _mm512_add_epi32(a, b); }

static inline B b_load(const void* p) { return _mm512_loadu_si512(p); }
template <int from, int to, int width>
static inline B b_field(B a) {
  constexpr int left = to > from ? to - from : 0, right = from > to ? from - to : 0;
  B moved = left ? _mm512_slli_epi16(a, left) : right ? _mm512_srli_epi16(a, right) : a;
  return _mm512_and_si512(moved, _mm512_set1_epi8((char)(((1 << width) - 1) << to)));
}
static inline B b_lookup(B a, const int8_t* table) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), a);
}
static inline B b_or(B a, B b) { return _mm512_or_si512(a, b); }
static inline Signed signed_bytes(B a) { return _mm512_xor_si512(a, _mm512_set1_epi8((char)0x80)); }

static inline I broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
static inline uint32_t offset_word(int even, int odd, int factor) { return (uint32_t)(factor * (even + odd)); }
static inline Acc acc_zero() { return _mm512_setzero_si512(); }
template <int shift>
static inline Acc acc_start(const uint32_t* offset) {
  constexpr int left = shift > 0 ? shift : 0, right = shift < 0 ? -shift : 0;
  return left ? _mm512_slli_epi32(broadcast4(offset), left) : right ? _mm512_srai_epi32(broadcast4(offset), right) : broadcast4(offset);
}
// Signed weights carry +128: from -8 * sum (Q8_0), or from -32 * sum of both halves (Q8_K).
static inline Acc acc_start_signed(const uint32_t* offset) { return _mm512_slli_epi32(broadcast4(offset), 4); }
static inline Acc acc_start_signed(const uint32_t* first, const uint32_t* second) {
  return _mm512_slli_epi32(_mm512_add_epi32(broadcast4(first), broadcast4(second)), 2);
}
static inline void acc_add(Acc& a, B w, const int8_t* x) { a = _mm512_dpbusd_epi32(a, w, broadcast4(x)); }
static inline void acc_add_signed(Acc& a, Signed w, const int8_t* x) { a = _mm512_dpbusd_epi32(a, w, broadcast4(x)); }
static inline I acc_sum(Acc a) { return a; }
static inline I acc_sum_signed(Acc a) { return a; }
static inline Scale scale_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline Scale scale_i8(const int8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline I acc_scale(I total, Acc a, Scale s) { return _mm512_add_epi32(total, _mm512_mullo_epi32(a, s)); }
static inline I i_scale(I total, I sum, const int8_t* scale) { return acc_scale(total, sum, scale_i8(scale)); }
template <int odd>
static inline Scale scale_nibbles(const uint8_t* p) {
  I pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_and_si512(odd ? _mm512_srli_epi32(pairs, 8) : pairs, _mm512_set1_epi32(15));
}
static inline I i_add_high_nibble_pairs(I total, const uint8_t* m, const int16_t* pair) {
  I wide = _mm512_srli_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)m)), 4);
  return _mm512_add_epi32(total, _mm512_madd_epi16(wide, broadcast4(pair)));
}
static inline I i_add_pairs(I total, const uint8_t* m, const int16_t* pair) {
  I wide = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)m));
  return _mm512_add_epi32(total, _mm512_madd_epi16(wide, broadcast4(pair)));
}
constexpr bool kWideSums = true;
#define LINNET_KEEP(x) asm("" : "+v"(x))
