// x ~ scale * q with q from `least` to `most`, lane by lane: the scale, of either sign, that leaves the smallest weighted squared error.
#pragma once
#include "lanes.h"

namespace linnet {
namespace LINNET_ISA {

// For fixed integers q the best scale is sum(w q x) / sum(w q q), and it explains sum(w q x)^2 / sum(w q q) of sum(w x x).
struct Fit {
  F qx = f_zero(), qq = f_zero();

  void add(F q, F x, F w) {
    F wq = f_mul(w, q);
    qx = f_fma(wq, x, qx);
    qq = f_fma(wq, q, qq);
  }
  F explained() const { return f_ratio(f_mul(qx, qx), qq); }
  F scale() const { return f_ratio(qx, qq); }
};

template <int width>
static inline F extreme(const Lanes& lanes) {
  F peak = f_zero();
  for (int k = 0; k < width; k++) {
    F x = lanes.value(k);
    peak = f_less(f_abs(peak), f_abs(x), x, peak);
  }
  return peak;
}

// 1 / x, 0 where x is so small that it would not be finite (no float16 scale is as small).
static inline F f_inverse(F x) { return f_less(f_abs(x), f_set(1e-30f), f_zero(), f_div(f_set(1.0f), x)); }

template <int width, int least, int most>
static inline Fit fit_at(const Lanes& lanes, F inverse) {
  Fit fit;
  for (int k = 0; k < width; k++) {
    F x = lanes.value(k);
    fit.add(f_integer(f_mul(x, inverse), least, most), x, lanes.weight(k));
  }
  return fit;
}

// Tries scales that make the extreme value targets[i], then alternates between integers and scale.
template <int width, int least, int most, int count>
static inline F symmetric_scale(const Lanes& lanes, const float (&targets)[count], int rounds) {
  F inverse_peak = f_inverse(extreme<width>(lanes)), best = f_zero(), scale = f_zero();
  auto consider = [&](F inverse) {
    Fit fit = fit_at<width, least, most>(lanes, inverse);
    F explained = fit.explained();
    scale = f_less(best, explained, fit.scale(), scale);
    best = f_max(best, explained);
  };
  for (float target : targets) consider(f_mul(f_set(target), inverse_peak));
  for (int i = 0; i < rounds; i++) consider(f_inverse(scale));
  return scale;
}

// The integers nearest to x / scale.
template <int width, int least, int most>
static inline void round_to(Lanes& lanes, F scale) {
  F inverse = f_inverse(scale);
  for (int k = 0; k < width; k++) lanes.set(k, f_integer(f_mul(lanes.value(k), inverse), least, most));
}

}  // namespace LINNET_ISA
}  // namespace linnet
