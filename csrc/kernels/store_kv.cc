// Keys and values into their page slots, rounded to the cache's type; see kernels.h for the layout of a page.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// value[i] to to[i * step]: of a key, to its position's lane of each entry's row.
template <class Value>
static inline void scatter(const Value* values, int count, int step, Value* to) {
  if (count == 16) {
    for (int i = 0; i < 16; i++) to[i * step] = values[i];
  } else {
    for (int i = 0; i < count; i++) to[i * step] = values[i];
  }
}

// Values past float16's range are stored as its largest: an infinity would turn masked zeros into NaN.
struct ToFloat16 {
  static inline void store(uint16_t* to, F x) { f_store_f16(to, f_clamp(x, -65504.0f, 65504.0f)); }
};
struct ToBFloat16 {
  static inline void store(uint16_t* to, F x) { f_store_bf16(to, x); }
};

template <class To>
static void store_halves(const float* x, int count, int step, uint16_t* to) {
  for (int d = 0; d < count; d += 16, to += 16 * step) {
    int here = count - d < 16 ? count - d : 16;
    uint16_t halves[16];
    To::store(halves, here == 16 ? f_load(x + d) : f_load_part(x + d, here));
    scatter(halves, here, step, to);
  }
}

// The nearest integers, halves away from zero, as ggml's reference encoder rounds.
static inline F rounded_away(F x) {
  F magnitude = f_abs(x), even = f_round(magnitude), sign = f_sub(f_drop_below(f_set(2.0f), x, 0.0f), f_set(1.0f));
  return f_mul(f_add(even, f_drop_below(f_set(1.0f), f_sub(magnitude, even), 0.5f)), sign);
}

// Blocks of 32 entries whose largest magnitude becomes 127. A NaN or an infinity has no integer: it makes its block's scale NaN.
static void store_q8_0(const float* x, int count, int step, int scale_step, int8_t* to, uint16_t* scales) {
  for (int d = 0; d < count; d += 32, scales += scale_step) {
    int first = count - d < 16 ? count - d : 16, second = count - d - first < 16 ? count - d - first : 16;
    F low = f_load_part(x + d, first), high = f_load_part(x + d + 16, second);
    F broken = f_add(f_sub(low, low), f_sub(high, high));
    float scale = f_largest(f_max(f_abs(low), f_abs(high))) / 127.0f;
    F inverse = f_set(scale == 0 ? 0 : 1.0f / scale);
    int8_t q[32];
    f_store_i8(q, rounded_away(f_mul(low, inverse)));
    f_store_i8(q + 16, rounded_away(f_mul(high, inverse)));
    scatter(q, first, step, to + d * step);
    scatter(q + 16, second, step, to + (d + 16) * step);
    *scales = float_to_half(scale + f_sum(broken));
  }
}

static void store_kv(const AttentionShape& shape, const float* k, const float* v, int slot, void* keys, void* values) {
  int padded = padded_values(shape.value_dim);
  if (shape.type == KvType::F32) {
    for (int d = 0; d < shape.head_dim; d++) ((float*)keys)[d * kPage + slot] = k[d];
    __builtin_memcpy((float*)values + slot * padded, v, sizeof(float) * (size_t)shape.value_dim);
  } else if (shape.type == KvType::Q8_0) {
    int8_t *key = (int8_t*)keys + slot, *value = (int8_t*)values + slot * padded;
    uint16_t* key_scales = (uint16_t*)((int8_t*)keys + shape.head_dim * kPage) + slot;
    uint16_t* value_scales = (uint16_t*)((int8_t*)values + padded * kPage) + slot * kv_blocks(shape.value_dim);
    store_q8_0(k, shape.head_dim, kPage, kPage, key, key_scales);
    store_q8_0(v, shape.value_dim, 1, 1, value, value_scales);
  } else {
    auto store = shape.type == KvType::F16 ? store_halves<ToFloat16> : store_halves<ToBFloat16>;
    store(k, shape.head_dim, kPage, (uint16_t*)keys + slot);
    store(v, shape.value_dim, 1, (uint16_t*)values + slot * padded);
  }
}

void set_store_kernels(Kernels& k) { k.store_kv = store_kv; }

}  // namespace LINNET_ISA
}  // namespace linnet
