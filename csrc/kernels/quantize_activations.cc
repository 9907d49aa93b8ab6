// Activations to int8, by the rules of llama.cpp so that the integers are the same: Q8_0 per 32 columns with a
// float16 scale of max / 127, Q8_K per 256 columns with a float32 scale of -max / 127 (the largest becomes -127).
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// NaN if a row has a NaN or an infinity, else 0: no integer says so, and a scale must, or a broken model would answer nonsense in
// place of an error. One scale of the row is enough, since all of them end in the same sums.
static inline F broken(F sum, F values) { return f_add(sum, f_sub(values, values)); }

template <int tokens>
static void quantize_q8_0(const float* x, int64_t columns, ActivationQ8_0<tokens>* tile) {
  int64_t blocks = columns / 32;
  for (int t = 0; t < tokens; t++, x += columns) {
    F not_finite = f_zero();
    for (int64_t b = 0; b < blocks; b++) {
      F low = f_load(x + 32 * b), high = f_load(x + 32 * b + 16);
      not_finite = broken(broken(not_finite, low), high);
      float largest = f_largest(f_max(f_abs(low), f_abs(high))), scale = largest / 127.0f;
      F inverse = f_set(largest > 0 ? 127.0f / largest : 0.0f);
      int8_t* q = tile[b].q[t];
      f_store_i8(q, f_mul(low, inverse));
      f_store_i8(q + 16, f_mul(high, inverse));
      ByteSums first = byte_sums(q), second = byte_sums(q + 16);
      int even = first.even + second.even, odd = first.odd + second.odd;
      tile[b].d[t] = rounded_to_half(scale);
      tile[b].offset[t] = offset_word(even, odd, -8);
      tile[b].sum[t] = rounded_to_half(scale * (float)(even + odd));
    }
    tile[blocks - 1].d[t] += f_sum(not_finite);
  }
}

// The value of largest magnitude among 256; the first, where that of either sign is as large.
static inline float extreme_of(const float* x, F& not_finite) {
  F most = f_load(x), least = most;
  for (int i = 0; i < 256; i += 16) {
    F values = f_load(x + i);
    not_finite = broken(not_finite, values);
    most = f_max(most, values);
    least = f_min(least, values);
  }
  float highest = f_largest(most), lowest = -f_largest(f_sub(f_zero(), least));
  if (highest != -lowest) return highest > -lowest ? highest : lowest;
  for (int i = 0; i < 256; i++) {
    if (x[i] == highest || x[i] == lowest) return x[i];
  }
  return 0;
}

template <int tokens>
static void quantize_q8_k(const float* x, int64_t columns, ActivationQ8_K<tokens>* tile) {
  int64_t blocks = columns / 256;
  for (int t = 0; t < tokens; t++, x += columns) {
    F not_finite = f_zero();
    for (int64_t b = 0; b < blocks; b++) {
      const float* part = x + 256 * b;
      float extreme = extreme_of(part, not_finite), inverse = extreme != 0.0f ? -127.0f / extreme : 0.0f;
      tile[b].d[t] = inverse != 0.0f ? 1.0f / inverse : 0.0f;
      for (int s = 0; s < 16; s++) {
        int8_t* q = tile[b].q[t] + 16 * s;
        f_store_i8(q, f_mul(f_load(part + 16 * s), f_set(inverse)));
        ByteSums sums = byte_sums(q);
        tile[b].offset[s][t] = offset_word(sums.even, sums.odd, -32);
        tile[b].half_sum[t][s] = (int16_t)(sums.even + sums.odd);
      }
      for (int s = 0; s < 8; s++) tile[b].sum[t][s] = (int16_t)(tile[b].half_sum[t][2 * s] + tile[b].half_sum[t][2 * s + 1]);
    }
    tile[blocks - 1].d[t] += f_sum(not_finite);
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
