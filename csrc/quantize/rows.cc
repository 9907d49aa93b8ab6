// Rows of a tensor before they are encoded: stored floats to float32, their extent, and what each value weighs.
#include "encoders.h"
#include "lanes.h"

namespace linnet {
namespace LINNET_ISA {

template <class Stored>
static inline void widen(const void* row, int64_t columns, float* x, float (*one)(typename Stored::Value)) {
  const uint8_t* from = (const uint8_t*)row;
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) f_store(x + k, Stored::load((const typename Stored::Value*)from + k));
  for (; k < columns; k++) {
    typename Stored::Value v;
    __builtin_memcpy(&v, from + k * (int64_t)sizeof v, sizeof v);
    x[k] = one(v);
  }
}
static float bf16_to_float(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
static void widen_f16(const void* row, int64_t columns, float* x) { widen<Float16>(row, columns, x, half_to_float); }
static void widen_bf16(const void* row, int64_t columns, float* x) { widen<BFloat16>(row, columns, x, bf16_to_float); }

// Values past the last whole vector, and zeros.
static inline F last_values(const float* x, int64_t count) {
  float last[kLanes] = {};
  for (int64_t k = 0; k < count; k++) last[k] = x[k];
  return f_load(last);
}

static float extent(const float* x, int64_t columns) {
  F most = f_zero(), broken = f_zero();  // broken: NaN where a value is not finite
  auto look = [&](F v) {
    most = f_max(most, f_abs(v));
    broken = f_add(broken, f_sub(v, v));
  };
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) look(f_load(x + k));
  look(last_values(x + k, columns - k));
  return f_largest(most) + f_sum(broken);
}

// importance[k] * sqrt(kFloor * mean square of the row + x^2): errors of large values count for more, since what a trained model says
// with them cannot be made up for elsewhere. llama.cpp weighs so where it has importances.
constexpr float kFloor = 4;
static void weigh(const float* x, const float* importance, int64_t columns, float* weights) {
  float largest = extent(x, columns);
  F unit = f_set(largest > 1e-30f ? 1.0f / largest : 1.0f), squares = f_zero();  // so that no square overflows
  for (int64_t k = 0; k < columns; k += kLanes) {
    F v = f_mul(f_load(x + k), unit);
    squares = f_fma(v, v, squares);
  }
  F floor = f_set(f_sum(squares) * (kFloor / (float)columns) + 1e-30f);
  for (int64_t k = 0; k < columns; k += kLanes) {
    F v = f_mul(f_load(x + k), unit), weight = f_sqrt(f_fma(v, v, floor));
    f_store(weights + k, importance ? f_mul(f_load(importance + k), weight) : weight);
  }
}

static void encode_f32(const float* x, const float*, int64_t columns, uint8_t* raw) { __builtin_memcpy(raw, x, 4 * (size_t)columns); }
template <void (*store)(uint16_t*, F)>
static void encode_halves(const float* x, const float*, int64_t columns, uint8_t* raw) {
  uint16_t halves[kLanes];
  int64_t k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    store(halves, f_load(x + k));
    __builtin_memcpy(raw + 2 * k, halves, sizeof halves);
  }
  store(halves, last_values(x + k, columns - k));
  __builtin_memcpy(raw + 2 * k, halves, 2 * (size_t)(columns - k));
}

void set_encoders(Kernels& kernels) {
  kernels.widen_f16 = widen_f16;
  kernels.widen_bf16 = widen_bf16;
  kernels.extent = extent;
  kernels.weigh = weigh;
  kernels.encode[(int)Type::F32] = encode_f32;
  kernels.encode[(int)Type::F16] = encode_halves<f_store_f16>;
  kernels.encode[(int)Type::BF16] = encode_halves<f_store_bf16>;
  set_block_encoders(kernels);
  set_affine_encoders(kernels);
  set_symmetric_encoders(kernels);
}

}  // namespace LINNET_ISA
}  // namespace linnet
