// x ~ scale * q + offset with q from 0 to `top`, lane by lane: scale and offset that leave the smallest weighted squared error.
#pragma once
#include "symmetric.h"

namespace linnet {
namespace LINNET_ISA {

struct Affine {
  F scale, offset;
};

struct BlockSums {
  F w = f_zero(), x = f_zero(), xx = f_zero();  // weights, weighted values and squares
  F low, high;                                  // the smallest and largest value
};

template <int width>
static inline BlockSums block_sums(const Lanes& lanes) {
  BlockSums sums;
  sums.low = sums.high = lanes.value(0);
  for (int k = 0; k < width; k++) {
    F x = lanes.value(k), w = lanes.weight(k), wx = f_mul(w, x);
    sums.w = f_add(sums.w, w);
    sums.x = f_add(sums.x, wx);
    sums.xx = f_fma(wx, x, sums.xx);
    sums.low = f_min(sums.low, x);
    sums.high = f_max(sums.high, x);
  }
  return sums;
}

struct AffineFit {
  F q = f_zero(), qq = f_zero(), qx = f_zero();
};

template <int width, int top>
static inline AffineFit affine_fit(const Lanes& lanes, F inverse, F shift) {
  AffineFit fit;
  for (int k = 0; k < width; k++) {
    F x = lanes.value(k), q = f_integer(f_fma(x, inverse, shift), 0, top), wq = f_mul(lanes.weight(k), q);
    fit.q = f_add(fit.q, wq);
    fit.qq = f_fma(wq, q, fit.qq);
    fit.qx = f_fma(wq, x, fit.qx);
  }
  return fit;
}

// Least squares for fixed integers: explained is what the error is smaller by than with every value at zero.
struct Solution {
  Affine at;
  F explained;
};

// Offsets above zero cannot be stored where `below_zero`: there the best one is zero.
template <bool below_zero>
static inline Solution solve(const BlockSums& s, const AffineFit& f) {
  F determinant = f_sub(f_mul(s.w, f.qq), f_mul(f.q, f.q));
  F scale = f_ratio(f_sub(f_mul(s.w, f.qx), f_mul(f.q, s.x)), determinant);
  F offset = f_ratio(f_sub(s.x, f_mul(scale, f.q)), s.w);
  F explained = f_fma(scale, f.qx, f_mul(offset, s.x));
  if (below_zero) {
    F alone = f_ratio(f.qx, f.qq);
    F above = offset;
    scale = f_less(f_zero(), above, alone, scale);
    offset = f_min(offset, f_zero());
    explained = f_less(f_zero(), above, f_mul(alone, f.qx), explained);
  }
  return Solution{{scale, offset}, explained};
}

// Parts of the range to leave out at either end (below zero: beyond it): first, first + step, ... of `count`.
struct Margins {
  float first, step;
  int count;
};

// The solution that explains most: of ranges with every pair of margins, and of one more round of integers by solution.
template <int width, int top, bool below_zero>
static inline Affine best_affine(const Lanes& lanes, const BlockSums& sums, Margins tried) {
  F low = below_zero ? f_min(sums.low, f_zero()) : sums.low, range = f_sub(sums.high, low);
  F best = f_set(-1.0f);
  Affine at{f_zero(), low};
  auto consider = [&](F inverse, F shift) {
    Solution s = solve<below_zero>(sums, affine_fit<width, top>(lanes, inverse, shift));
    at.scale = f_less(best, s.explained, s.at.scale, at.scale);
    at.offset = f_less(best, s.explained, s.at.offset, at.offset);
    best = f_max(best, s.explained);
  };
  for (int i = 0; i < tried.count * tried.count; i++) {
    float below = tried.first + tried.step * (float)(i / tried.count), above = tried.first + tried.step * (float)(i % tried.count);
    F inverse = f_inverse(f_mul(range, f_set((1.0f - below - above) / top)));
    consider(inverse, f_mul(f_negate(f_fma(range, f_set(below), low)), inverse));
  }
  F inverse = f_inverse(at.scale);
  consider(inverse, f_mul(f_negate(at.offset), inverse));
  return at;
}

// The integers nearest to (x - offset) / scale.
template <int width, int top>
static inline void place_at(Lanes& lanes, Affine at) {
  F inverse = f_inverse(at.scale), shift = f_mul(f_negate(at.offset), inverse);
  for (int k = 0; k < width; k++) lanes.set(k, f_integer(f_fma(lanes.value(k), inverse, shift), 0, top));
}

}  // namespace LINNET_ISA
}  // namespace linnet
