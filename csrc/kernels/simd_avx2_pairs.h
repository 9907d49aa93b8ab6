// Dot products of plain AVX2: vpmaddubsw, whose pairs are added up in int16 and widened once a block.
#pragma once

using Acc = I;  // unsigned weights: int16 pairs; signed weights: int32
struct Signed {
  I magnitude, sign;
};
using Scale = I;                   // each scale twice, as int16 pair
constexpr bool kWideSums = false;  // unsigned dot products run in int16

static inline Signed signed_bytes(B x) { return Signed{{_mm256_abs_epi8(x.a), _mm256_abs_epi8(x.b)}, x}; }
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
static inline __m256i doubled_half(__m256i s) {
  return _mm256_or_si256(_mm256_slli_epi32(s, 16), _mm256_and_si256(s, _mm256_set1_epi32(0xffff)));
}
static inline Scale doubled(I s) { return Scale{doubled_half(s.a), doubled_half(s.b)}; }
static inline Scale scale_u8(const uint8_t* p) { return doubled(i_from_u8(p)); }
static inline Scale scale_i8(const int8_t* p) { return doubled(i_from_i8(p)); }
template <int odd>
static inline Scale scale_nibbles(const uint8_t* p) {
  return doubled(i_from_nibbles<odd>(p));
}
static inline I acc_scale(I total, Acc x, Scale s) {
  return I{_mm256_add_epi32(total.a, _mm256_madd_epi16(x.a, s.a)), _mm256_add_epi32(total.b, _mm256_madd_epi16(x.b, s.b))};
}
