// x ~ scale * q with q an integer or a level of a table, lane by lane: the scale, of either sign, that leaves the smallest weighted
// squared error.
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

// Integers from `least` to `most`; the place of one is how far it is from the least.
template <int least, int most>
struct Integers {
  static F nearest(F value) { return f_integer(value, least, most); }
  static F place(F value) { return f_sub(nearest(value), f_set(least)); }
};

template <int width, class Grid>
static inline Fit fit_at(const Lanes& lanes, F inverse) {
  Fit fit;
  for (int k = 0; k < width; k++) {
    F x = lanes.value(k);
    fit.add(Grid::nearest(f_mul(x, inverse)), x, lanes.weight(k));
  }
  return fit;
}

// Scales to try: those that make the extreme value first, first + step, ... of `count`.
struct Targets {
  float first, step;
  int count;
};

// The scale that explains most of sum(w x x): of those tried, and of two more rounds of integers by scale and scale by integers.
// Grid::nearest(x) is the integer (or level) that stands for x.
template <int width, class Grid, int sides>
static inline F best_scale(const Lanes& lanes, const Targets (&tried)[sides]) {
  F inverse_peak = f_inverse(extreme<width>(lanes)), best = f_zero(), scale = f_zero();
  auto consider = [&](F inverse) {
    Fit fit = fit_at<width, Grid>(lanes, inverse);
    F explained = fit.explained();
    scale = f_less(best, explained, fit.scale(), scale);
    best = f_max(best, explained);
  };
  for (const Targets& t : tried) {
    for (int i = 0; i < t.count; i++) consider(f_mul(f_set(t.first + t.step * (float)i), inverse_peak));
  }
  for (int i = 0; i < 2; i++) consider(f_inverse(scale));
  return scale;
}

template <int width, class Grid>
static inline void place_at(Lanes& lanes, F scale) {
  F inverse = f_inverse(scale);
  for (int k = 0; k < width; k++) lanes.set(k, Grid::place(f_mul(lanes.value(k), inverse)));
}

}  // namespace LINNET_ISA
}  // namespace linnet
