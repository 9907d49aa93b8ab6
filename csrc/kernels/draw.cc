// What the draw of a token looks up in every logit of a vocabulary. Float64 without fused multiply-adds, written for the compiler to
// vectorize: the same bits with every instruction set.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

static void extremes(const float* x, int64_t blocks, float* least, float* largest) {
  for (int64_t b = 0; b < blocks; b++, x += kDrawBlock) {
    F low = f_set(__builtin_inff()), high = f_set(-__builtin_inff());
    for (int i = 0; i < kDrawBlock; i += 16) {  // what is not a number is passed over: it comes first
      low = f_min(f_load(x + i), low);
      high = f_max(f_load(x + i), high);
    }
    least[b] = -f_largest(f_sub(f_zero(), low));
    largest[b] = f_largest(high);
  }
}

// e^x for x from -708 to 0, to about one unit in the last place: x = n ln 2 + r, thirteen terms of the series in r, times 2^n.
static inline double exp_of(double x) {
  const double kRound = 6755399441055744.0;  // 1.5 * 2^52: added, it leaves an integer in the lowest bits
  double shifted = x * 1.4426950408889634 + kRound, n = shifted - kRound;
  double r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10;
  double p = 1.6059043836821613e-10;
  p = p * r + 2.08767569878681e-9;
  p = p * r + 2.505210838544172e-8;
  p = p * r + 2.755731922398589e-7;
  p = p * r + 2.7557319223985893e-6;
  p = p * r + 2.48015873015873e-5;
  p = p * r + 1.984126984126984e-4;
  p = p * r + 1.388888888888889e-3;
  p = p * r + 8.333333333333333e-3;
  p = p * r + 4.1666666666666664e-2;
  p = p * r + 0.16666666666666666;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, 8);
  bits = (bits + 1023) << 52;
  double power;
  __builtin_memcpy(&power, &bits, 8);
  return p * power;
}

static void draw_weights(const float* logits, int64_t count, float largest, double inverse_temperature, double* weights) {
  for (int64_t i = 0; i < count; i++) {
    double x = ((double)logits[i] - (double)largest) * inverse_temperature;
    double weight = exp_of(x > -708.0 ? x : -708.0);
    weights[i] = x > -708.0 ? weight : 0.0;
  }
}

static void draw_bins(const float* logits, int64_t count, float largest, float scale, int last, uint16_t* bins) {
  float most = (float)last;
  for (int64_t i = 0; i < count; i++) {
    float place = (largest - logits[i]) * scale;
    bins[i] = (uint16_t)(int32_t)(place < most ? place : most);
  }
}

void set_draw_kernels(Kernels& k) {
  k.extremes = extremes;
  k.draw_weights = draw_weights;
  k.draw_bins = draw_bins;
}

}  // namespace LINNET_ISA
}  // namespace linnet
