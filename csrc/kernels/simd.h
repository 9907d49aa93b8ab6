// The vector vocabulary that every kernel is written in, once; three headers give it meaning.
//
//   F      16 float lanes             I  16 int32 lanes            B  64 weight bytes: lane r holds bytes 4r..4r+3
//   Acc    16 running dot products of unsigned weights with signed activations (acc_start, acc_add, acc_sum)
//   Signed weight bytes made ready for acc_add_signed;  Scale  16 sub-block scales for acc_scale
//
// A kernel source is compiled once per instruction set, inside its own namespace (LINNET_ISA), with its own
// compiler flags. Nothing inline may be shared between those copies: the linker keeps one copy of an inline
// function and could keep the AVX-512 one. So: static functions only, and no standard library templates.
#pragma once
#include <cstddef>
#include <cstdint>
#if defined(LINNET_AVX512) || defined(LINNET_AVX2)
#include <immintrin.h>
#endif

namespace linnet {
namespace LINNET_ISA {

static inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {  // zero or subnormal: mantissa * 2^-24, exact in float32
    float value = (float)mantissa * 5.9604644775390625e-8f;
    __builtin_memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest, ties to even; overflow to infinity, as the hardware conversion does.
static inline uint16_t float_to_half(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000u) {  // subnormal half: add 0.5 so that the wanted bits land at the bottom
    float value;
    __builtin_memcpy(&value, &magnitude, 4);
    value += 0.5f;
    __builtin_memcpy(&magnitude, &value, 4);
    return (uint16_t)(sign | (magnitude - 0x3f000000u));
  }
  magnitude += 0xfff + ((magnitude >> 13) & 1);
  return (uint16_t)(sign | ((magnitude - 0x38000000u) >> 13));
}

#if defined(LINNET_AVX512)
#include "simd_avx512.h"
#elif defined(LINNET_AVX2)
#include "simd_avx2.h"
#else
#include "simd_scalar.h"
#endif

// Lanes added in one fixed order: halves, quarters, eighths, pairs.
static inline float f_sum(F a) {
  float v[16];
  f_store(v, a);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; i++) v[i] += v[i + width];
  }
  return v[0];
}

static inline float f_largest(F a) {
  float v[16];
  f_store(v, a);
  float largest = v[0];
  for (int i = 1; i < 16; i++) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

// The first n of 16 floats, zeros after them.
static inline F f_load_part(const float* p, int n) {
  float v[16] = {0};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return f_load(v);
}

static inline void f_store_part(float* p, F a, int n) {
  float v[16];
  f_store(v, a);
  for (int i = 0; i < n; i++) p[i] = v[i];
}

// e^x to about one unit in the last place: x = n ln 2 + r, a degree-6 polynomial in r, times 2^n.
// Below -87.3 the result is exactly 0, so that a mask of -infinity counts for nothing.
static inline F f_exp(F x) {
  F y = f_min(f_max(x, f_set(-87.3f)), f_set(88.0f));
  F n = f_round(f_mul(y, f_set(1.44269504f)));
  F r = f_fma(n, f_set(-0.693145752f), y);
  r = f_fma(n, f_set(-1.42860677e-6f), r);
  F p = f_set(1.3981999e-3f);
  p = f_fma(p, r, f_set(8.3334519e-3f));
  p = f_fma(p, r, f_set(4.1665796e-2f));
  p = f_fma(p, r, f_set(1.6666666e-1f));
  p = f_fma(p, r, f_set(5.0000000e-1f));
  p = f_fma(p, r, f_set(1.0f));
  p = f_fma(p, r, f_set(1.0f));
  return f_keep_from(f_mul(p, f_power_of_two(n)), x, -87.3f);
}

}  // namespace LINNET_ISA
}  // namespace linnet
