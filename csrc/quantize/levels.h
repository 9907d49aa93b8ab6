// x ~ scale * levels[i] with sixteen levels that are not evenly spaced, lane by lane.
#pragma once
#include "symmetric.h"

namespace linnet {
namespace LINNET_ISA {

static const float kIQ4Floats[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const float kIQ4Targets[] = {-134, -130, -127, -124, -120, -116, -110, -104, 108, 113, 117, 121};

// The place among `count` ascending levels of the one nearest to each value, and that level.
template <int count>
static inline F nearest_place(F value, const float (&levels)[count]) {
  F place = f_zero(), one = f_set(1.0f);
  for (int i = 1; i < count; i++) {
    place = f_add(place, f_less(f_set((levels[i - 1] + levels[i]) * 0.5f), value, one, f_zero()));
  }
  return place;
}
template <int count>
static inline F nearest_level(F value, const float (&levels)[count]) {
  F level = f_set(levels[0]);
  for (int i = 1; i < count; i++) {
    level = f_less(f_set((levels[i - 1] + levels[i]) * 0.5f), value, f_set(levels[i]), level);
  }
  return level;
}

template <int width, int count, int tries>
static inline F level_scale(const Lanes& lanes, const float (&levels)[count], const float (&targets)[tries], int rounds) {
  F inverse_peak = f_inverse(extreme<width>(lanes)), best = f_zero(), scale = f_zero();
  auto consider = [&](F inverse) {
    Fit fit;
    for (int k = 0; k < width; k++) {
      F x = lanes.value(k);
      fit.add(nearest_level(f_mul(x, inverse), levels), x, lanes.weight(k));
    }
    F explained = fit.explained();
    scale = f_less(best, explained, fit.scale(), scale);
    best = f_max(best, explained);
  };
  for (float target : targets) consider(f_mul(f_set(target), inverse_peak));
  for (int i = 0; i < rounds; i++) consider(f_inverse(scale));
  return scale;
}

template <int width, int count>
static inline void place_at(Lanes& lanes, const float (&levels)[count], F scale) {
  F inverse = f_inverse(scale);
  for (int k = 0; k < width; k++) lanes.set(k, nearest_place(f_mul(lanes.value(k), inverse), levels));
}

}  // namespace LINNET_ISA
}  // namespace linnet
