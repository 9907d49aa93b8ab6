// The vector vocabulary that every kernel is written in, once; three headers give it meaning.
//
//   F      16 float lanes             I  16 int32 lanes            B  64 weight bytes: lane r holds bytes 4r..4r+3
//   Acc    16 running dot products of unsigned weights with signed activations (acc_start, acc_add, acc_sum)
//   Signed weight bytes made ready for acc_add_signed;  Scale  16 sub-block scales for acc_scale
//   LINNET_KEEP(x)  x is computed here, into registers: the compiler may not put off or join what would then spill
//
// A kernel source is compiled once per instruction set, inside its own namespace (LINNET_ISA), with its own
// compiler flags. Nothing inline may be shared between those copies: the linker keeps one copy of an inline
// function and could keep the AVX-512 one. So: static functions only, and no standard library templates.
#pragma once
#include <cstddef>
#include <cstdint>
#if defined(LINNET_AVX512) || defined(LINNET_AVX2)
#include <immintrin.h>
#elif defined(LINNET_NEON)
#include <arm_neon.h>
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
#elif defined(LINNET_NEON)
#include "simd_neon.h"
#else
#include "simd_scalar.h"
#endif

// Stored floats, as kernels that take several kinds load them.
struct Float32 {
  using Value = float;
  static inline F load(const float* p) { return f_load(p); }
};
struct Float16 {
  using Value = uint16_t;
  static inline F load(const uint16_t* p) { return f_load_f16(p); }
};
struct BFloat16 {
  using Value = uint16_t;
  static inline F load(const uint16_t* p) { return f_load_bf16(p); }
};

// Lanes added in one fixed order: halves, quarters, eighths, pairs; every lane of the answer holds the sum.
static inline F f_sum_all(F a) {
  a = f_add(a, f_swap<8>(a));
  a = f_add(a, f_swap<4>(a));
  a = f_add(a, f_swap<2>(a));
  return f_add(a, f_swap<1>(a));
}
static inline float f_sum(F a) { return f_first(f_sum_all(a)); }

// The largest lane, in every lane.
static inline F f_largest_all(F a) {
  a = f_max(a, f_swap<8>(a));
  a = f_max(a, f_swap<4>(a));
  a = f_max(a, f_swap<2>(a));
  return f_max(a, f_swap<1>(a));
}
static inline float f_largest(F a) { return f_first(f_largest_all(a)); }

// e^y = (1 + r * series) * power for y from -87.3 to 88: y = n ln 2 + r, a degree-6 polynomial in r, power = 2^n.
struct Exponential {
  F r, series, power;
};
static inline Exponential exponential(F y) {
  F n = f_round(f_mul(y, f_set(1.44269504f)));
  F r = f_fma(n, f_set(-0.693145752f), y);
  r = f_fma(n, f_set(-1.42860677e-6f), r);
  F p = f_set(1.3981999e-3f);
  p = f_fma(p, r, f_set(8.3334519e-3f));
  p = f_fma(p, r, f_set(4.1665796e-2f));
  p = f_fma(p, r, f_set(1.6666666e-1f));
  p = f_fma(p, r, f_set(5.0000000e-1f));
  return Exponential{r, f_fma(p, r, f_set(1.0f)), f_power_of_two(n)};
}

// x between two bounds; NaN stays NaN, since f_max and f_min give their second operand when they cannot compare.
static inline F f_clamp(F x, float least, float most) { return f_min(f_set(most), f_max(f_set(least), x)); }

// e^x to about one unit in the last place. Below -87.3 the result is exactly 0, so that a mask of -infinity counts for nothing.
static inline F f_exp(F x) {
  Exponential e = exponential(f_clamp(x, -87.3f, 88.0f));
  return f_drop_below(f_mul(f_fma(e.series, e.r, f_set(1.0f)), e.power), x, -87.3f);
}

// tanh x = m / (m + 2) with m = e^2x - 1, which keeps its digits near zero: (1 + r series) 2^n - 1 = r series 2^n + (2^n - 1).
static inline F f_tanh(F x) {
  Exponential e = exponential(f_clamp(f_add(x, x), -30.0f, 30.0f));
  F m = f_fma(f_mul(e.r, e.series), e.power, f_sub(e.power, f_set(1.0f)));
  return f_div(m, f_add(m, f_set(2.0f)));
}

// The normal distribution's P(X < x), to 1e-6 of itself also far in the lower tail: with z = |x|, P(X < -z) = e^(-z^2/2) times
// a polynomial in 1 / (1 + 0.3 z), fitted to 1.3e-7 for z up to 13.5, where e^(-z^2/2) ends. Equals (1 + erf(x / sqrt 2)) / 2.
static inline F f_normal_cdf(F x) {
  F z = f_min(f_set(14.0f), f_abs(x)), t = f_div(f_set(1.0f), f_fma(z, f_set(0.3f), f_set(1.0f)));
  F p = f_set(3.59317362e-2f);
  p = f_fma(p, t, f_set(-1.58276007e-1f));
  p = f_fma(p, t, f_set(2.08206624e-1f));
  p = f_fma(p, t, f_set(-5.53938560e-2f));
  p = f_fma(p, t, f_set(1.29469201e-1f));
  p = f_fma(p, t, f_set(9.96374935e-2f));
  p = f_fma(p, t, f_set(1.20798357e-1f));
  p = f_fma(p, t, f_set(1.19626388e-1f));
  // What rounding z^2 to 24 bits loses is put back: e^-(s + lost)/2 = e^(-s/2) (1 - lost / 2).
  F square = f_mul(z, z), lost = f_fma(z, z, f_sub(f_zero(), square)), half = f_set(-0.5f);
  F e = f_exp(f_mul(square, half));
  F tail = f_mul(f_mul(p, t), f_fma(f_mul(e, lost), half, e));
  return f_add(tail, f_drop_below(f_sub(f_set(1.0f), f_add(tail, tail)), x, 0.0f));
}

}  // namespace LINNET_ISA
}  // namespace linnet
