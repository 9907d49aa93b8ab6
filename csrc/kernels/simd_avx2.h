// Sixteen lanes in two 256-bit registers; integer dots through vpmaddubsw in int16. See simd.h for the contract.
#pragma once

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
using B = I;
using Acc = I;  // unsigned weights: int16 pairs; signed weights: int32
struct Signed {
  I magnitude, sign;
};
using Scale = I;  // each scale twice, as int16 pair

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
static inline Signed signed_bytes(B x) { return Signed{{_mm256_abs_epi8(x.a), _mm256_abs_epi8(x.b)}, x}; }

static inline __m256i broadcast4(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
// vpmaddubsw adds bytes 0,1 and 2,3 of a group apart, so the offset is kept apart too: two int16 that start the sum.
static inline uint32_t offset_word(int even, int odd, int factor) {
  return (uint32_t)(uint16_t)(factor * even) | (uint32_t)(uint16_t)(factor * odd) << 16;
}
static inline Acc acc_zero() { return i_zero(); }
template <int shift>
static inline Acc acc_start(const uint32_t* offset) {
  constexpr int left = shift > 0 ? shift : 0, right = shift < 0 ? -shift : 0;
  __m256i word = broadcast4(offset);
  __m256i o = left ? _mm256_slli_epi16(word, left) : right ? _mm256_srai_epi16(word, right) : word;
  return Acc{o, o};
}
static inline Acc acc_start_signed(const uint32_t*) { return i_zero(); }
static inline Acc acc_start_signed(const uint32_t*, const uint32_t*) { return i_zero(); }
static inline void acc_add(Acc& r, B w, const int8_t* x) {
  __m256i v = broadcast4(x);
  r.a = _mm256_add_epi16(r.a, _mm256_maddubs_epi16(w.a, v));
  r.b = _mm256_add_epi16(r.b, _mm256_maddubs_epi16(w.b, v));
}
// |w| * (x with the sign of w): pairs reach 2 * 128 * 127 = 32512 and fit int16, at w = -128 too.
static inline void acc_add_signed(Acc& r, const Signed& w, const int8_t* x) {
  __m256i v = broadcast4(x), one = _mm256_set1_epi16(1);
  r.a = _mm256_add_epi32(r.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.magnitude.a, _mm256_sign_epi8(v, w.sign.a)), one));
  r.b = _mm256_add_epi32(r.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.magnitude.b, _mm256_sign_epi8(v, w.sign.b)), one));
}
static inline I acc_sum(Acc x) {
  __m256i one = _mm256_set1_epi16(1);
  return I{_mm256_madd_epi16(x.a, one), _mm256_madd_epi16(x.b, one)};
}
static inline I acc_sum_signed(Acc x) { return x; }
static inline __m256i doubled(__m256i s) {
  return _mm256_or_si256(_mm256_slli_epi32(s, 16), _mm256_and_si256(s, _mm256_set1_epi32(0xffff)));
}
static inline Scale scale_u8(const uint8_t* p) {
  return Scale{doubled(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p))),
               doubled(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
static inline Scale scale_i8(const int8_t* p) {
  return Scale{doubled(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
               doubled(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
static inline I acc_scale(I total, Acc x, Scale s) {
  return I{_mm256_add_epi32(total.a, _mm256_madd_epi16(x.a, s.a)), _mm256_add_epi32(total.b, _mm256_madd_epi16(x.b, s.b))};
}
static inline I i_scale(I total, I sum, const int8_t* scale) {
  __m256i a = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)scale)),
          b = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(scale + 8)));
  return I{_mm256_add_epi32(total.a, _mm256_mullo_epi32(sum.a, a)), _mm256_add_epi32(total.b, _mm256_mullo_epi32(sum.b, b))};
}
template <int odd>
static inline __m256i nibbles_half(const uint8_t* p) {
  __m256i pairs = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return doubled(_mm256_and_si256(odd ? _mm256_srli_epi32(pairs, 8) : pairs, _mm256_set1_epi32(15)));
}
template <int odd>
static inline Scale scale_nibbles(const uint8_t* p) {
  return Scale{nibbles_half<odd>(p), nibbles_half<odd>(p + 16)};
}
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
constexpr bool kWideSums = false;
#define LINNET_KEEP(x) asm("" : "+x"((x).a), "+x"((x).b))
