// Sixteen-lane vectors in plain C++: the baseline that every processor runs. See simd.h for the contract.
#pragma once

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct B {
  uint8_t v[64];
};
using Acc = I;
using Signed = B;
using Scale = I;

#define LINNET_EACH(expression) \
  for (int i = 0; i < 16; i++) r.v[i] = (expression)

static inline F f_zero() { return F{}; }
static inline F f_set(float x) {
  F r;
  LINNET_EACH(x);
  return r;
}
// Loads go through memcpy: weights lie in a mapped file wherever it put them, aligned or not.
template <class T>
static inline T unaligned(const T* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}
static inline F f_load(const float* p) {
  F r;
  __builtin_memcpy(r.v, p, sizeof r.v);
  return r;
}
static inline void f_store(float* p, F a) {
  for (int i = 0; i < 16; i++) p[i] = a.v[i];
}
static inline F f_load_bf16(const uint16_t* p) {
  F r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits = (uint32_t)unaligned(p + i) << 16;
    __builtin_memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
static inline F f_load_f16(const uint16_t* p) {
  F r;
  LINNET_EACH(half_to_float(unaligned(p + i)));
  return r;
}
// 2^(e - 128): half of an E8M0 scale, as MXFP4's doubled values want it.
static inline F f_load_e8m0_half(const uint8_t* p) {
  F r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits = p[i] < 2 ? 0x00200000u << p[i] : (uint32_t)(p[i] - 1) << 23;
    __builtin_memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
static inline void f_store_f16(uint16_t* p, F a) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(a.v[i]);
}
// Ties to even; a NaN keeps its upper bits and becomes quiet.
static inline void f_store_bf16(uint16_t* p, F a) {
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    __builtin_memcpy(&bits, &a.v[i], 4);
    p[i] = (uint16_t)(a.v[i] == a.v[i] ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : bits >> 16 | 64);
  }
}
static inline F f_add(F a, F b) {
  F r;
  LINNET_EACH(a.v[i] + b.v[i]);
  return r;
}
static inline F f_sub(F a, F b) {
  F r;
  LINNET_EACH(a.v[i] - b.v[i]);
  return r;
}
static inline F f_mul(F a, F b) {
  F r;
  LINNET_EACH(a.v[i] * b.v[i]);
  return r;
}
static inline F f_div(F a, F b) {
  F r;
  LINNET_EACH(a.v[i] / b.v[i]);
  return r;
}
static inline F f_fma(F a, F b, F c) {
  F r;
  LINNET_EACH(a.v[i] * b.v[i] + c.v[i]);
  return r;
}
static inline F f_max(F a, F b) {
  F r;
  LINNET_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
  return r;
}
static inline F f_min(F a, F b) {
  F r;
  LINNET_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
  return r;
}
static inline F f_abs(F a) {
  F r;
  LINNET_EACH(__builtin_fabsf(a.v[i]));
  return r;
}
// a, or 0 where x < limit.
static inline F f_drop_below(F a, F x, float limit) {
  F r;
  LINNET_EACH(x.v[i] < limit ? 0.0f : a.v[i]);
  return r;
}
// 2^n for integral n within the exponent range; anything for NaN.
static inline F f_power_of_two(F n) {
  F r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits = (uint32_t)((n.v[i] == n.v[i] ? (int32_t)n.v[i] : 0) + 127) << 23;
    __builtin_memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
// Nearest integer, ties to even, by the 1.5 * 2^23 trick; |x| < 2^22.
static inline F f_round(F a) {
  F r;
  LINNET_EACH((a.v[i] + 12582912.0f) - 12582912.0f);
  return r;
}
static inline float f_first(const F& a) { return a.v[0]; }
// Lane i takes what lane i ^ n holds.
template <int n>
static inline F f_swap(F a) {
  F r;
  LINNET_EACH(a.v[i ^ n]);
  return r;
}
// The first n of 16 floats, zeros after them.
static inline F f_load_part(const float* p, int n) {
  F r;
  LINNET_EACH(i < n ? p[i] : 0.0f);
  return r;
}
static inline void f_store_part(float* p, F a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.v[i];
}
// Eight floats, each in two neighbouring lanes.
static inline F f_load_twice(const float* p) {
  F r;
  LINNET_EACH(p[i / 2]);
  return r;
}
static inline F f_load_i8(const int8_t* p) {
  F r;
  LINNET_EACH((float)p[i]);
  return r;
}
// The nearest integers, ties to even, within int8; anything for what is not finite.
static inline void f_store_i8(int8_t* p, F a) {
  for (int i = 0; i < 16; i++) {
    float rounded = (a.v[i] + 12582912.0f) - 12582912.0f;
    p[i] = (int8_t)(rounded > 127.0f ? 127 : rounded >= -128.0f ? (int)rounded : -128);
  }
}
// x as float16 keeps it.
static inline float rounded_to_half(float x) { return half_to_float(float_to_half(x)); }
// Sums of sixteen bytes: of those whose index modulo 4 is below 2, and of the others; or of all in `even`, where kWideSums.
struct ByteSums {
  int even, odd;
};
static inline ByteSums byte_sums(const int8_t* p) {
  ByteSums sums{0, 0};
  for (int i = 0; i < 16; i++) sums.even += p[i];
  return sums;
}
static inline F f_from_i(I a) {
  F r;
  LINNET_EACH((float)a.v[i]);
  return r;
}
static inline I i_zero() { return I{}; }
static inline I i_add(I a, I b) {
  I r;
  LINNET_EACH(a.v[i] + b.v[i]);
  return r;
}

static inline B b_load(const void* p) {
  B r;
  __builtin_memcpy(r.v, p, 64);
  return r;
}
// Bits [from, from + width) of every byte, moved to bit `to`, alone.
template <int from, int to, int width>
static inline B b_field(B a) {
  for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)(((a.v[i] >> from) & ((1 << width) - 1)) << to);
  return a;
}
static inline B b_lookup(B a, const int8_t* table) {
  for (int i = 0; i < 64; i++) a.v[i] = (uint8_t)table[a.v[i]];
  return a;
}
static inline B b_or(B a, B b) {
  for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
  return a;
}
static inline Signed signed_bytes(B a) { return a; }

static inline uint32_t offset_word(int even, int odd, int factor) { return (uint32_t)(factor * (even + odd)); }
static inline Acc acc_zero() { return Acc{}; }
template <int shift>
static inline Acc acc_start(const uint32_t* offset) {
  int32_t word = (int32_t)*offset, start = shift > 0 ? word * (1 << shift) : word / (1 << -shift);
  Acc r;
  LINNET_EACH(start);
  return r;
}
static inline Acc acc_start_signed(const uint32_t*) { return Acc{}; }
static inline Acc acc_start_signed(const uint32_t*, const uint32_t*) { return Acc{}; }
static inline void acc_add(Acc& r, const B& w, const int8_t* x) {
  for (int i = 0; i < 16; i++) {
    const uint8_t* a = w.v + 4 * i;
    r.v[i] += a[0] * x[0] + a[1] * x[1] + a[2] * x[2] + a[3] * x[3];
  }
}
static inline void acc_add_signed(Acc& r, const Signed& w, const int8_t* x) {
  for (int i = 0; i < 16; i++) {
    const int8_t* a = (const int8_t*)w.v + 4 * i;
    r.v[i] += a[0] * x[0] + a[1] * x[1] + a[2] * x[2] + a[3] * x[3];
  }
}
static inline I acc_sum(Acc a) { return a; }
static inline I acc_sum_signed(Acc a) { return a; }
static inline Scale scale_u8(const uint8_t* p) {
  Scale r;
  LINNET_EACH(p[i]);
  return r;
}
static inline Scale scale_i8(const int8_t* p) {
  Scale r;
  LINNET_EACH(p[i]);
  return r;
}
static inline I acc_scale(I total, Acc a, Scale s) {
  for (int i = 0; i < 16; i++) total.v[i] += a.v[i] * s.v[i];
  return total;
}
static inline I i_scale(I total, I sum, const int8_t* scale) {
  for (int i = 0; i < 16; i++) total.v[i] += sum.v[i] * scale[i];
  return total;
}
// Low nibbles of 16 bytes that stand in pairs: the even or the odd ones.
template <int odd>
static inline Scale scale_nibbles(const uint8_t* p) {
  Scale r;
  LINNET_EACH(p[2 * i + odd] & 15);
  return r;
}
static inline I i_add_high_nibble_pairs(I total, const uint8_t* m, const int16_t* pair) {
  for (int i = 0; i < 16; i++) total.v[i] += (m[2 * i] >> 4) * pair[0] + (m[2 * i + 1] >> 4) * pair[1];
  return total;
}
static inline I i_add_pairs(I total, const uint8_t* m, const int16_t* pair) {
  for (int i = 0; i < 16; i++) total.v[i] += m[2 * i] * pair[0] + m[2 * i + 1] * pair[1];
  return total;
}
constexpr bool kWideSums = true;  // unsigned dot products run in int32
#define LINNET_KEEP(x)
#undef LINNET_EACH
