// Sixteen-lane vectors in four 128-bit registers, with the dot products of Armv8.2 (vdotq_s32). See simd.h for the contract.
#pragma once

struct F {
  float32x4_t a, b, c, d;
};
struct I {
  int32x4_t a, b, c, d;
};
struct B {
  uint8x16_t a, b, c, d;
};
using Acc = I;
using Signed = B;  // as they are: both sides of vdotq_s32 are signed
using Scale = I;
constexpr bool kWideSums = true;  // dot products run in int32

static inline F f_set(float x) {
  float32x4_t v = vdupq_n_f32(x);
  return F{v, v, v, v};
}
static inline F f_zero() { return f_set(0.0f); }
static inline F f_load(const float* p) { return F{vld1q_f32(p + 4 * 0), vld1q_f32(p + 4 * 1), vld1q_f32(p + 4 * 2), vld1q_f32(p + 4 * 3)}; }
static inline void f_store(float* p, F x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
static inline float32x4_t bf16_quarter(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
static inline F f_load_bf16(const uint16_t* p) {
  return F{bf16_quarter(p + 4 * 0), bf16_quarter(p + 4 * 1), bf16_quarter(p + 4 * 2), bf16_quarter(p + 4 * 3)};
}
static inline float32x4_t f16_quarter(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline F f_load_f16(const uint16_t* p) {
  return F{f16_quarter(p + 4 * 0), f16_quarter(p + 4 * 1), f16_quarter(p + 4 * 2), f16_quarter(p + 4 * 3)};
}
static inline I i_from_u16(uint16x8_t low, uint16x8_t high) {
  return I{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))};
}
static inline I i_from_u8(uint8x16_t x) { return i_from_u16(vmovl_u8(vget_low_u8(x)), vmovl_u8(vget_high_u8(x))); }
static inline I i_from_i8(const int8_t* p) {
  int8x16_t x = vld1q_s8(p);
  int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
  return I{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)), vmovl_s16(vget_high_s16(high))};
}
static inline float32x4_t e8m0_half_quarter(int32x4_t e) {
  int32x4_t normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23), tiny = vshlq_s32(vdupq_n_s32(0x00200000), e);
  return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), tiny, normal));
}
static inline F f_load_e8m0_half(const uint8_t* p) {
  I e = i_from_u8(vld1q_u8(p));
  return F{e8m0_half_quarter(e.a), e8m0_half_quarter(e.b), e8m0_half_quarter(e.c), e8m0_half_quarter(e.d)};
}
static inline uint16x4_t f16_bits(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }
// Ties to even; a NaN keeps its upper bits and becomes quiet.
static inline uint16x4_t bf16_bits(float32x4_t x) {
  uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
  uint32x4_t quiet = vorrq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(64));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
}
static inline void f_store_f16(uint16_t* p, F x) {
  vst1_u16(p, f16_bits(x.a));
  vst1_u16(p + 4, f16_bits(x.b));
  vst1_u16(p + 8, f16_bits(x.c));
  vst1_u16(p + 12, f16_bits(x.d));
}
static inline void f_store_bf16(uint16_t* p, F x) {
  vst1_u16(p, bf16_bits(x.a));
  vst1_u16(p + 4, bf16_bits(x.b));
  vst1_u16(p + 8, bf16_bits(x.c));
  vst1_u16(p + 12, bf16_bits(x.d));
}
static inline F f_add(F x, F y) { return F{vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)}; }
static inline F f_sub(F x, F y) { return F{vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)}; }
static inline F f_mul(F x, F y) { return F{vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)}; }
static inline F f_div(F x, F y) { return F{vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)}; }
static inline F f_fma(F x, F y, F z) {
  return F{vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
// Not vmaxq and vminq: where the two do not compare, the second is wanted.
static inline float32x4_t larger(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
static inline float32x4_t smaller(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
static inline F f_max(F x, F y) { return F{larger(x.a, y.a), larger(x.b, y.b), larger(x.c, y.c), larger(x.d, y.d)}; }
static inline F f_min(F x, F y) { return F{smaller(x.a, y.a), smaller(x.b, y.b), smaller(x.c, y.c), smaller(x.d, y.d)}; }
static inline F f_abs(F x) { return F{vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
static inline float32x4_t drop_below_quarter(float32x4_t v, float32x4_t x, float limit) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, vdupq_n_f32(limit))));
}
static inline F f_drop_below(F v, F x, float limit) {
  return F{drop_below_quarter(v.a, x.a, limit), drop_below_quarter(v.b, x.b, limit), drop_below_quarter(v.c, x.c, limit),
           drop_below_quarter(v.d, x.d, limit)};
}
static inline float32x4_t power_of_two_quarter(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline F f_power_of_two(F n) {
  return F{power_of_two_quarter(n.a), power_of_two_quarter(n.b), power_of_two_quarter(n.c), power_of_two_quarter(n.d)};
}
static inline F f_round(F x) { return F{vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)}; }
static inline float f_first(F x) { return vgetq_lane_f32(x.a, 0); }
template <int n>
static inline float32x4_t swap_quarter(float32x4_t x) {
  return n == 2 ? vextq_f32(x, x, 2) : vrev64q_f32(x);
}
template <int n>
static inline F f_swap(F x) {
  return n == 8   ? F{x.c, x.d, x.a, x.b}
         : n == 4 ? F{x.b, x.a, x.d, x.c}
                  : F{swap_quarter<n>(x.a), swap_quarter<n>(x.b), swap_quarter<n>(x.c), swap_quarter<n>(x.d)};
}
static inline F f_load_part(const float* p, int n) {
  float v[16] = {0};
  __builtin_memcpy(v, p, sizeof(float) * (size_t)n);
  return f_load(v);
}
static inline void f_store_part(float* p, F x, int n) {
  float v[16];
  f_store(v, x);
  __builtin_memcpy(p, v, sizeof(float) * (size_t)n);
}
static inline F f_load_twice(const float* p) {
  float32x4_t low = vld1q_f32(p), high = vld1q_f32(p + 4);
  return F{vzip1q_f32(low, low), vzip2q_f32(low, low), vzip1q_f32(high, high), vzip2q_f32(high, high)};
}
static inline F f_from_i(I x) { return F{vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)}; }
static inline F f_load_i8(const int8_t* p) { return f_from_i(i_from_i8(p)); }
static inline int16x8_t words_of(float32x4_t x, float32x4_t y) {
  return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x)), vqmovn_s32(vcvtnq_s32_f32(y)));
}
static inline void f_store_i8(int8_t* p, F x) { vst1q_s8(p, vcombine_s8(vqmovn_s16(words_of(x.a, x.b)), vqmovn_s16(words_of(x.c, x.d)))); }
static inline float rounded_to_half(float x) { return half_to_float(float_to_half(x)); }
struct ByteSums {
  int even, odd;
};
static inline ByteSums byte_sums(const int8_t* p) { return ByteSums{vaddlvq_s8(vld1q_s8(p)), 0}; }
static inline I i_zero() {
  int32x4_t zero = vdupq_n_s32(0);
  return I{zero, zero, zero, zero};
}
static inline I i_add(I x, I y) { return I{vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)}; }

static inline B b_load(const void* p) {
  const uint8_t* q = (const uint8_t*)p;
  return B{vld1q_u8(q), vld1q_u8(q + 16), vld1q_u8(q + 32), vld1q_u8(q + 48)};
}
template <int from, int to, int width>
static inline uint8x16_t field_quarter(uint8x16_t x) {
  uint8x16_t moved = vshlq_u8(x, vdupq_n_s8(to - from));  // by a negative count: to the right
  return vandq_u8(moved, vdupq_n_u8(((1 << width) - 1) << to));
}
template <int from, int to, int width>
static inline B b_field(B x) {
  return B{field_quarter<from, to, width>(x.a), field_quarter<from, to, width>(x.b), field_quarter<from, to, width>(x.c),
           field_quarter<from, to, width>(x.d)};
}
static inline B b_lookup(B x, const int8_t* table) {
  uint8x16_t t = vreinterpretq_u8_s8(vld1q_s8(table));
  return B{vqtbl1q_u8(t, x.a), vqtbl1q_u8(t, x.b), vqtbl1q_u8(t, x.c), vqtbl1q_u8(t, x.d)};
}
static inline B b_or(B x, B y) { return B{vorrq_u8(x.a, y.a), vorrq_u8(x.b, y.b), vorrq_u8(x.c, y.c), vorrq_u8(x.d, y.d)}; }
static inline Signed signed_bytes(B x) { return x; }

static inline int32x4_t broadcast4(const void* p) { return vld1q_dup_s32((const int32_t*)p); }
static inline uint32_t offset_word(int even, int odd, int factor) { return (uint32_t)(factor * (even + odd)); }
static inline Acc acc_zero() { return i_zero(); }
template <int shift>
static inline Acc acc_start(const uint32_t* offset) {
  int32x4_t start = vshlq_s32(broadcast4(offset), vdupq_n_s32(shift));
  return Acc{start, start, start, start};
}
static inline Acc acc_start_signed(const uint32_t*) { return i_zero(); }
static inline Acc acc_start_signed(const uint32_t*, const uint32_t*) { return i_zero(); }
static inline int32x4_t dot_quarter(int32x4_t sum, uint8x16_t w, int32x4_t x) {
  return vdotq_s32(sum, vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(x));
}
// Unsigned weights have at most six bits: they are the same bytes signed.
static inline void acc_add(Acc& r, B w, const int8_t* x) {
  int32x4_t v = broadcast4(x);
  r = Acc{dot_quarter(r.a, w.a, v), dot_quarter(r.b, w.b, v), dot_quarter(r.c, w.c, v), dot_quarter(r.d, w.d, v)};
}
static inline void acc_add_signed(Acc& r, Signed w, const int8_t* x) { acc_add(r, w, x); }
static inline I acc_sum(Acc x) { return x; }
static inline I acc_sum_signed(Acc x) { return x; }
static inline Scale scale_u8(const uint8_t* p) { return i_from_u8(vld1q_u8(p)); }
static inline Scale scale_i8(const int8_t* p) { return i_from_i8(p); }
static inline I acc_scale(I total, Acc x, Scale s) {
  return I{vmlaq_s32(total.a, x.a, s.a), vmlaq_s32(total.b, x.b, s.b), vmlaq_s32(total.c, x.c, s.c), vmlaq_s32(total.d, x.d, s.d)};
}
static inline I i_scale(I total, I sum, const int8_t* scale) { return acc_scale(total, sum, scale_i8(scale)); }
template <int odd>
static inline Scale scale_nibbles(const uint8_t* p) {
  return i_from_u8(vandq_u8(vld2q_u8(p).val[odd], vdupq_n_u8(15)));
}
static inline I add_products(I total, uint8x16_t x, int16_t factor) {
  int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
  return I{vmlal_n_s16(total.a, vget_low_s16(low), factor), vmlal_n_s16(total.b, vget_high_s16(low), factor),
           vmlal_n_s16(total.c, vget_low_s16(high), factor), vmlal_n_s16(total.d, vget_high_s16(high), factor)};
}
static inline I i_add_pairs(I total, const uint8_t* m, const int16_t* pair) {
  uint8x16x2_t pairs = vld2q_u8(m);
  return add_products(add_products(total, pairs.val[0], pair[0]), pairs.val[1], pair[1]);
}
static inline I i_add_high_nibble_pairs(I total, const uint8_t* m, const int16_t* pair) {
  uint8x16x2_t pairs = vld2q_u8(m);
  return add_products(add_products(total, vshrq_n_u8(pairs.val[0], 4), pair[0]), vshrq_n_u8(pairs.val[1], 4), pair[1]);
}
#define LINNET_KEEP(x) asm("" : "+w"((x).a), "+w"((x).b), "+w"((x).c), "+w"((x).d))
