// Activations to int8, by the rules of llama.cpp so that the integers are the same: Q8_0 per 32 columns with a
// float16 scale of max / 127, Q8_K per 256 columns with a float32 scale of -max / 127 (the largest becomes -127).
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// What a damaged weight makes of an activation, NaN or an infinity, becomes zero.
static inline int8_t to_int8(float rounded) {
  float bounded = rounded > 127.0f ? 127.0f : rounded;
  return (int8_t)(bounded >= -128.0f ? (int)bounded : 0);
}

// Sums of the columns whose index modulo 4 is below 2, and of the others: what an offset word is made of.
static inline uint32_t offset_of(const int8_t* q, int count, int factor) {
  int even = 0, odd = 0;
  for (int i = 0; i < count; i += 4) {
    even += q[i] + q[i + 1];
    odd += q[i + 2] + q[i + 3];
  }
  return offset_word(even, odd, factor);
}

static inline int sum_of(const int8_t* q, int count) {
  int sum = 0;
  for (int i = 0; i < count; i++) sum += q[i];
  return sum;
}

// Returns 0, or NaN where a column is NaN or infinite: no integer says so, and the scale must, or a broken model would
// answer nonsense in place of an error.
static inline float round_scaled(const float* x, float inverse, int count, int8_t* q) {
  F broken = f_zero();
  for (int i = 0; i < count; i += 16) {
    float v[16];
    F value = f_load(x + i);
    broken = f_add(broken, f_sub(value, value));
    f_store(v, f_round(f_mul(value, f_set(inverse))));
    for (int j = 0; j < 16; j++) q[i + j] = to_int8(v[j]);
  }
  return f_sum(broken);
}

template <int tokens>
static void quantize_q8_0(const float* x, int64_t columns, ActivationQ8_0<tokens>* tile) {
  for (int t = 0; t < tokens; t++, x += columns) {
    for (int64_t b = 0; b < columns / 32; b++) {
      const float* part = x + 32 * b;
      float largest = f_largest(f_max(f_abs(f_load(part)), f_abs(f_load(part + 16))));
      float broken = round_scaled(part, largest > 0 ? 127.0f / largest : 0.0f, 32, tile[b].q[t]);
      tile[b].d[t] = half_to_float(float_to_half(largest / 127.0f)) + broken;
      tile[b].offset[t] = offset_of(tile[b].q[t], 32, -8);
      tile[b].sum[t] = half_to_float(float_to_half(largest / 127.0f * (float)sum_of(tile[b].q[t], 32)));
    }
  }
}

template <int tokens>
static void quantize_q8_k(const float* x, int64_t columns, ActivationQ8_K<tokens>* tile) {
  for (int t = 0; t < tokens; t++, x += columns) {
    for (int64_t b = 0; b < columns / 256; b++) {
      const float* part = x + 256 * b;
      F magnitudes = f_zero();
      for (int i = 0; i < 256; i += 16) magnitudes = f_max(magnitudes, f_abs(f_load(part + i)));
      float largest = f_largest(magnitudes), extreme = 0.0f;
      for (int i = 0; i < 256 && extreme == 0.0f; i++) {
        if (part[i] == largest || part[i] == -largest) extreme = part[i];
      }
      float inverse = extreme != 0.0f ? -127.0f / extreme : 0.0f;
      float broken = round_scaled(part, inverse, 256, tile[b].q[t]);
      tile[b].d[t] = (inverse != 0.0f ? 1.0f / inverse : 0.0f) + broken;
      for (int s = 0; s < 16; s++) {
        tile[b].offset[s][t] = offset_of(tile[b].q[t] + 16 * s, 16, -32);
        tile[b].half_sum[t][s] = (int16_t)sum_of(tile[b].q[t] + 16 * s, 16);
      }
      for (int s = 0; s < 8; s++) tile[b].sum[t][s] = (int16_t)(tile[b].half_sum[t][2 * s] + tile[b].half_sum[t][2 * s + 1]);
    }
  }
}

template <int tokens>
static void q8_0_of(const float* x, int64_t columns, int wanted, void* tile) {
  if (wanted == tokens) {
    quantize_q8_0<tokens>(x, columns, (ActivationQ8_0<tokens>*)tile);
  } else if constexpr (tokens > 1) {
    q8_0_of<tokens - 1>(x, columns, wanted, tile);
  }
}

template <int tokens>
static void q8_k_of(const float* x, int64_t columns, int wanted, void* tile) {
  if (wanted == tokens) {
    quantize_q8_k<tokens>(x, columns, (ActivationQ8_K<tokens>*)tile);
  } else if constexpr (tokens > 1) {
    q8_k_of<tokens - 1>(x, columns, wanted, tile);
  }
}

void set_quantize_kernels(Kernels& k) {
  k.quantize_q8_0 = q8_0_of<kMostTokens>;
  k.quantize_q8_k = q8_k_of<kMostTokens>;
}

}  // namespace LINNET_ISA
}  // namespace linnet
