// Sixteen blocks side by side, lane i one column of block i: every search runs on sixteen blocks at once and adds nothing across
// lanes, so a block's answer depends on nothing but the block.
#pragma once
#include "../kernels/kernels.h"
#include "../kernels/simd.h"

namespace linnet {
namespace LINNET_ISA {

constexpr int kLanes = 16;
constexpr int kWidest = 32;  // columns of a block or sub-block

// a < b ? x : y, lane by lane; y where they cannot be compared.
#if defined(LINNET_AVX512)
static inline F f_less(F a, F b, F x, F y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
#elif defined(LINNET_AVX2)
static inline F f_less(F a, F b, F x, F y) {
  return F{_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
           _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}
#else
static inline F f_less(F a, F b, F x, F y) {
  float lanes[4][kLanes], out[kLanes];
  f_store(lanes[0], a);
  f_store(lanes[1], b);
  f_store(lanes[2], x);
  f_store(lanes[3], y);
  for (int i = 0; i < kLanes; i++) out[i] = lanes[0][i] < lanes[1][i] ? lanes[2][i] : lanes[3][i];
  return f_load(out);
}
#endif

#if defined(LINNET_AVX512)
static inline F f_sqrt(F a) { return _mm512_sqrt_ps(a); }
#elif defined(LINNET_AVX2)
static inline F f_sqrt(F a) { return F{_mm256_sqrt_ps(a.a), _mm256_sqrt_ps(a.b)}; }
#else
static inline F f_sqrt(F a) {
  float lanes[kLanes];
  f_store(lanes, a);
  for (float& x : lanes) x = __builtin_sqrtf(x);
  return f_load(lanes);
}
#endif

// a / b, 0 where b is not above zero.
static inline F f_ratio(F a, F b) { return f_less(f_zero(), b, f_div(a, b), f_zero()); }
static inline F f_negate(F a) { return f_sub(f_zero(), a); }
static inline F f_integer(F a, float least, float most) { return f_clamp(f_round(a), least, most); }

// The largest, or the sum, of each run of `subs` lanes, the sub-blocks of a super-block, in all lanes of the run.
template <int subs, class Join>
static inline F f_joined(F a, Join join) {
  float v[kLanes];
  f_store(v, a);
  for (int first = 0; first < kLanes; first += subs) {
    float all = v[first];
    for (int i = 1; i < subs; i++) all = join(all, v[first + i]);
    for (int i = 0; i < subs; i++) v[first + i] = all;
  }
  return f_load(v);
}
template <int subs>
static inline F f_largest_of(F a) {
  return f_joined<subs>(a, [](float x, float y) { return x > y ? x : y; });
}
template <int subs>
static inline F f_sum_of(F a) {
  return f_joined<subs>(a, [](float x, float y) { return x + y; });
}

// As a float16 will hold it: at most the largest of them, since an infinite scale would hold nothing.
static inline F f_as_half(F a) {
  uint16_t halves[kLanes];
  f_store_f16(halves, f_clamp(a, -65504.0f, 65504.0f));
  return f_load_f16(halves);
}

// Values and weights of sixteen blocks, and the integers chosen for them.
struct Lanes {
  alignas(64) float x[kWidest][kLanes];
  alignas(64) float w[kWidest][kLanes];
  alignas(64) int8_t q[kWidest][kLanes];

  F value(int k) const { return f_load(x[k]); }
  F weight(int k) const { return f_load(w[k]); }
  void set(int k, F code) { f_store_i8(q[k], code); }
};

// Blocks of `width` columns that stand one after another: the first `count` of sixteen; the others are zeros that count for nothing.
static inline void load_lanes(const float* row, int width, int64_t count, float (*lanes)[kLanes]) {
  for (int i = 0; i < kLanes; i++) {
    for (int k = 0; k < width; k++) lanes[k][i] = i < count ? row[i * width + k] : 0.0f;
  }
}

// The integers in the order of the columns: [16 * width].
static inline void store_codes(const Lanes& lanes, int width, uint8_t* codes) {
  for (int i = 0; i < kLanes; i++) {
    for (int k = 0; k < width; k++) codes[i * width + k] = (uint8_t)lanes.q[k][i];
  }
}

}  // namespace LINNET_ISA
}  // namespace linnet
