// What recurrent layers do between two positions: convolutions of a column by its last values, and the gated delta rule.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

static void convolve(const float* const* inputs, int taps, const float* weights, int64_t stride, const float* bias, int64_t count,
                     float* y) {
  for (int64_t i = 0; i < count; i += 16) {
    int here = count - i < 16 ? (int)(count - i) : 16;
    F sum = f_zero();
    for (int tap = 0; tap < taps; tap++) {
      sum = f_add(sum, f_mul(f_load_part(weights + tap * stride + i, here), f_load_part(inputs[tap] + i, here)));
    }
    if (bias) sum = f_add(sum, f_load_part(bias + i, here));
    f_store_part(y + i, sum, here);
  }
}

// Rows of the state in four chains, added in one order: a single one would wait for its own last addition.
template <bool whole>
static inline void delta_columns(const DeltaRule& d, float* state, const float* v, int columns, float* out) {
  auto load = [=](const float* p) { return whole ? f_load(p) : f_load_part(p, columns); };
  auto store = [=](float* p, F a) { whole ? f_store(p, a) : f_store_part(p, a, columns); };
  F kept = f_set(d.kept), sum[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  for (int i = 0; i < d.key_dim; i++) {
    F s = f_mul(load(state + i * d.stride), kept);
    store(state + i * d.stride, s);
    sum[i & 3] = f_fma(f_set(d.k[i]), s, sum[i & 3]);
  }
  F said = f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3]));
  F change = f_mul(f_set(d.strength), f_sub(load(v), said));
  F answer[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  for (int i = 0; i < d.key_dim; i++) {
    F s = f_fma(f_set(d.k[i]), change, load(state + i * d.stride));
    store(state + i * d.stride, s);
    answer[i & 3] = f_fma(f_set(d.q[i]), s, answer[i & 3]);
  }
  store(out, f_add(f_add(answer[0], answer[1]), f_add(answer[2], answer[3])));
}

static void delta_rule(const DeltaRule& d, float* state, const float* v, int columns, float* out) {
  int i = 0;
  for (; i + 16 <= columns; i += 16) delta_columns<true>(d, state + i, v + i, 16, out + i);
  if (i < columns) delta_columns<false>(d, state + i, v + i, columns - i, out + i);
}

void set_recurrent_kernels(Kernels& k) {
  k.convolve = convolve;
  k.delta_rule = delta_rule;
}

}  // namespace LINNET_ISA
}  // namespace linnet
