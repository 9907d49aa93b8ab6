// x ~ scale * levels[i] with sixteen levels that are not evenly spaced, lane by lane.
#pragma once
#include "symmetric.h"

namespace linnet {
namespace LINNET_ISA {

static const float kIQ4Floats[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
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

// The sixteen levels of IQ4_NL and IQ4_XS.
struct IQ4Levels {
  static F nearest(F value) { return nearest_level(value, kIQ4Floats); }
  static F place(F value) { return nearest_place(value, kIQ4Floats); }
};
static const Targets kIQ4Targets[] = {{-142, 4, 10}, {104, 4, 5}};

}  // namespace LINNET_ISA
}  // namespace linnet
