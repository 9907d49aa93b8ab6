// Keys and values into their page slots, rounded to the cache's type; see kernels.h for the layout of a page.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// Values past float16's range are stored as its largest: an infinity would turn masked zeros into NaN.
static inline F saturated(F x) { return f_clamp(x, -65504.0f, 65504.0f); }

static inline uint16_t float_to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  uint32_t quiet = bits >> 16 | 64, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // ties to even
  return (uint16_t)(x == x ? rounded : quiet);
}

// Up to 16 of a row's entries at a time, the first at `x`; value[i] goes to to[i * step].
static void store_halves(const float* x, int count, bool brain, int step, uint16_t* to) {
  for (int d = 0; d < count; d += 16, to += 16 * step) {
    int here = count - d < 16 ? count - d : 16;
    float v[16];
    uint16_t halves[16];
    f_store(v, f_load_part(x + d, here));
    if (brain) {
      for (int i = 0; i < 16; i++) halves[i] = float_to_bf16(v[i]);
    } else {
      f_store_f16(halves, saturated(f_load(v)));
    }
    for (int i = 0; i < here; i++) to[i * step] = halves[i];
  }
}

// Blocks of 32 entries as ggml's reference makes them: the largest magnitude becomes 127, halves round away from zero.
// NaN and infinities have no integer: they make their block's scale NaN.
static void store_q8_0(const float* x, int count, int step, int scale_step, int8_t* to, uint16_t* scales) {
  for (int d = 0; d < count; d += 32, to += 32 * step, scales += scale_step) {
    int here = count - d < 32 ? count - d : 32;
    F low = f_load_part(x + d, here < 16 ? here : 16), high = f_load_part(x + d + 16, here < 16 ? 0 : here - 16);
    float broken = f_sum(f_add(f_sub(low, low), f_sub(high, high)));
    float scale = f_largest(f_max(f_abs(low), f_abs(high))) / 127.0f, inverse = scale == 0 ? 0 : 1.0f / scale;
    float v[32];
    f_store(v, f_mul(low, f_set(inverse)));
    f_store(v + 16, f_mul(high, f_set(inverse)));
    for (int i = 0; i < here; i++) {
      float magnitude = v[i] < 0 ? -v[i] : v[i];
      int whole = magnitude <= 128.0f ? (int)magnitude : 0;
      whole += magnitude - (float)whole >= 0.5f;
      to[i * step] = (int8_t)(v[i] < 0 ? -whole : whole);
    }
    *scales = float_to_half(scale + broken);
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
    bool brain = shape.type == KvType::BF16;
    store_halves(k, shape.head_dim, brain, kPage, (uint16_t*)keys + slot);
    store_halves(v, shape.value_dim, brain, 1, (uint16_t*)values + slot * padded);
  }
}

void set_store_kernels(Kernels& k) { k.store_kv = store_kv; }

}  // namespace LINNET_ISA
}  // namespace linnet
