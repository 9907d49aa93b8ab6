// Norms, rotary embedding, activations and sums: one pass over a row each.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

static void rms_norm(const float* x, const float* weight, float epsilon, int64_t width, float* y) {
  F squares = f_zero();
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) squares = f_fma(f_load(x + i), f_load(x + i), squares);
  if (i < width) {
    F rest = f_load_part(x + i, (int)(width - i));
    squares = f_fma(rest, rest, squares);
  }
  float scale = (float)(1.0 / __builtin_sqrt((double)f_sum(squares) / (double)width + (double)epsilon));
  for (i = 0; i + 16 <= width; i += 16) f_store(y + i, f_mul(f_mul(f_load(x + i), f_set(scale)), f_load(weight + i)));
  for (; i < width; i++) y[i] = x[i] * scale * weight[i];
}

static void rotate(const float* x, const float* cosine, const float* sine, int dim, int head_dim, bool interleaved, float* y) {
  int half = dim / 2;
  for (int i = 0; i < half; i++) {
    int first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    float a = x[first], b = x[second];
    y[first] = a * cosine[i] - b * sine[i];
    y[second] = b * cosine[i] + a * sine[i];
  }
  for (int i = dim; i < head_dim; i++) y[i] = x[i];
}

static inline F silu(F x) { return f_div(x, f_add(f_set(1.0f), f_exp(f_sub(f_zero(), x)))); }

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
static inline F gelu_tanh(F x) {
  F u = f_mul(f_set(1.5957691216f), f_fma(f_mul(f_mul(x, x), x), f_set(0.044715f), x));
  return f_div(x, f_add(f_set(1.0f), f_exp(f_sub(f_zero(), u))));
}

static inline F gelu(F x) {
  float v[16];
  f_store(v, x);
  for (int i = 0; i < 16; i++) v[i] = 0.5f * v[i] * (1.0f + __builtin_erff(v[i] * 0.70710678f));
  return f_load(v);
}

static inline F activation_of(F x, int activation) {
  switch (activation) {  // in the order of ACTIVATIONS in ops/native.py
    case 0:
      return silu(x);
    case 1:
      return gelu(x);
    case 2:
      return gelu_tanh(x);
    default:
      return f_max(x, f_zero());
  }
}

static void add(const float* a, const float* b, int64_t count, float* y) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) f_store(y + i, f_add(f_load(a + i), f_load(b + i)));
  for (; i < count; i++) y[i] = a[i] + b[i];
}

static void activate(const float* x, int activation, int64_t count, float* y) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) f_store(y + i, activation_of(f_load(x + i), activation));
  if (i < count) f_store_part(y + i, activation_of(f_load_part(x + i, (int)(count - i)), activation), (int)(count - i));
}

static void gate(const float* g, const float* u, int activation, int64_t count, float* y) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) f_store(y + i, f_mul(activation_of(f_load(g + i), activation), f_load(u + i)));
  if (i < count) {
    int rest = (int)(count - i);
    f_store_part(y + i, f_mul(activation_of(f_load_part(g + i, rest), activation), f_load_part(u + i, rest)), rest);
  }
}

void set_elementwise_kernels(Kernels& k) {
  k.rms_norm = rms_norm;
  k.rotate = rotate;
  k.add = add;
  k.activate = activate;
  k.gate = gate;
}

}  // namespace LINNET_ISA
}  // namespace linnet
