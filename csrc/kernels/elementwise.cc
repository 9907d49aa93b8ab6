// Norms, rotary embedding, activations and sums: one pass over a row each. A result may stand where an input stood.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// y[i] = f(a[i]), and y[i] = f(a[i], b[i]).
template <class Function>
static inline void map(const float* a, int64_t count, float* y, Function f) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) f_store(y + i, f(f_load(a + i)));
  if (i < count) f_store_part(y + i, f(f_load_part(a + i, (int)(count - i))), (int)(count - i));
}
template <class Function>
static inline void map(const float* a, const float* b, int64_t count, float* y, Function f) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) f_store(y + i, f(f_load(a + i), f_load(b + i)));
  int rest = (int)(count - i);
  if (rest) f_store_part(y + i, f(f_load_part(a + i, rest), f_load_part(b + i, rest)), rest);
}

// The sum that f(sum, values) builds up over a row, in four chains: a single one would wait for its own last addition.
template <class Function>
static inline double sum_over(const float* x, int64_t width, Function f) {
  F sum[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  int64_t i = 0;
  for (; i + 64 <= width; i += 64) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) sum[c] = f(sum[c], f_load(x + i + 16 * c));
  }
  for (; i + 16 <= width; i += 16) sum[0] = f(sum[0], f_load(x + i));
  if (i < width) sum[1] = f(sum[1], f_load_part(x + i, (int)(width - i)));
  return (double)f_sum(f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3])));
}

static void norm(int kind, const float* x, const float* weight, const float* bias, float epsilon, int64_t width, float* y) {
  if (kind == kLayerNorm) {
    F mean = f_set((float)(sum_over(x, width, [](F sum, F v) { return f_add(sum, v); }) / (double)width));
    map(x, width, y, [=](F v) { return f_sub(v, mean); });
    x = y;
  }
  double squares = sum_over(x, width, [](F sum, F v) { return f_fma(v, v, sum); });
  F scale = f_set((float)(1.0 / __builtin_sqrt(squares / (double)width + (double)epsilon)));
  if (weight) {
    map(x, weight, width, y, [=](F v, F w) { return f_mul(f_mul(v, scale), w); });
  } else {
    map(x, width, y, [=](F v) { return f_mul(v, scale); });
  }
  if (bias) map(y, bias, width, y, [](F v, F b) { return f_add(v, b); });
}

static void rotate(const float* x, const float* cosine, const float* sine, int start, int dim, int head_dim, bool interleaved, float* y) {
  if (y != x) {
    for (int i = 0; i < start; i++) y[i] = x[i];
    for (int i = start + dim; i < head_dim; i++) y[i] = x[i];
  }
  x += start;
  y += start;
  int half = dim / 2, i = 0;
  if (interleaved) {
    // Neighbours change places: (a, b) cos + (b, a) (-sin, sin).
    static const float kSigns[16] = {-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
    F signs = f_load(kSigns);
    for (; i + 8 <= half; i += 8) {
      F pairs = f_load(x + 2 * i), turned = f_mul(f_swap<1>(pairs), f_mul(f_load_twice(sine + i), signs));
      f_store(y + 2 * i, f_add(f_mul(pairs, f_load_twice(cosine + i)), turned));
    }
  } else {
    for (; i + 16 <= half; i += 16) {
      F a = f_load(x + i), b = f_load(x + i + half), c = f_load(cosine + i), s = f_load(sine + i);
      f_store(y + i, f_sub(f_mul(a, c), f_mul(b, s)));
      f_store(y + i + half, f_add(f_mul(b, c), f_mul(a, s)));
    }
  }
  for (; i < half; i++) {
    int first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    float a = x[first], b = x[second];
    y[first] = a * cosine[i] - b * sine[i];
    y[second] = b * cosine[i] + a * sine[i];
  }
}

struct Silu {
  static inline F of(F x) { return f_div(x, f_add(f_set(1.0f), f_exp(f_sub(f_zero(), x)))); }
};
struct Gelu {
  static inline F of(F x) { return f_mul(x, f_normal_cdf(x)); }
};
// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh {
  static inline F of(F x) {
    F u = f_mul(f_set(1.5957691216f), f_fma(f_mul(f_mul(x, x), x), f_set(0.044715f), x));
    return f_div(x, f_add(f_set(1.0f), f_exp(f_sub(f_zero(), u))));
  }
};
struct Relu {  // the row's value second, so that NaN stays NaN
  static inline F of(F x) { return f_max(f_zero(), x); }
};
struct ReluSquared {
  static inline F of(F x) { return f_mul(x, f_max(f_zero(), x)); }
};
struct Sigmoid {
  static inline F of(F x) { return f_div(f_set(1.0f), f_add(f_set(1.0f), f_exp(f_sub(f_zero(), x)))); }
};

template <class Activation>
static void activate(const float* x, int64_t count, float* y) {
  map(x, count, y, [](F v) { return Activation::of(v); });
}

template <class Activation>
static void gate(const float* g, const float* u, int64_t count, float* y) {
  map(g, u, count, y, [](F g, F u) { return f_mul(Activation::of(g), u); });
}

// With g at most 7 and u from -7 to 7: g sigmoid(1.702 g) (u + 1), gpt-oss's.
static void gate_clamped_swiglu(const float* g, const float* u, int64_t count, float* y) {
  map(g, u, count, y, [](F g, F u) {
    g = f_min(f_set(7.0f), g);
    F swish = f_div(g, f_add(f_set(1.0f), f_exp(f_mul(g, f_set(-1.702f)))));
    return f_mul(swish, f_add(f_clamp(u, -7.0f, 7.0f), f_set(1.0f)));
  });
}

static void add(const float* a, float a_scale, const float* b, float b_scale, int64_t count, float* y) {
  F sa = f_set(a_scale), sb = f_set(b_scale);
  map(a, b, count, y, [=](F a, F b) { return f_add(f_mul(a, sa), f_mul(b, sb)); });
}

static void scale(const float* x, float factor, int64_t count, float* y) {
  F f = f_set(factor);
  map(x, count, y, [=](F v) { return f_mul(v, f); });
}

static void softcap(const float* x, float cap, int64_t count, float* y) {
  F c = f_set(cap), inverse = f_set(1.0f / cap);
  map(x, count, y, [=](F v) { return f_mul(c, f_tanh(f_mul(v, inverse))); });
}

template <class Activation>
static void set_activation(Kernels& k, int id) {
  k.activate[id] = activate<Activation>;
  k.gate[id] = gate<Activation>;
}

void set_elementwise_kernels(Kernels& k) {
  k.norm = norm;
  k.rotate = rotate;
  set_activation<Silu>(k, kSilu);
  set_activation<Gelu>(k, kGelu);
  set_activation<GeluTanh>(k, kGeluTanh);
  set_activation<Relu>(k, kRelu);
  set_activation<ReluSquared>(k, kReluSquared);
  set_activation<Sigmoid>(k, kSigmoid);
  k.gate[kClampedSwiglu] = gate_clamped_swiglu;
  k.add = add;
  k.scale = scale;
  k.softcap = softcap;
}

}  // namespace LINNET_ISA
}  // namespace linnet
