// Attention over KV pages: one pass, online softmax (Milakov & Gimelshein 2018), merged page by page at absolute
// positions. A row's sums run over its own pages in order, whatever rows share its tile and however its prompt was cut.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

constexpr int kTile = 4;  // query rows that share each load of keys and values
#if defined(LINNET_AVX512)
constexpr int kValueVectors = 2;
#else
constexpr int kValueVectors = 1;
#endif

// Running state of a query row: unnormalised output [padded], largest score, sum of weights.
struct State {
  float* sum;
  float* largest;
  float* weight;
};

static inline State state_of(float* base, int row, int padded) {
  float* s = base + (size_t)row * (padded + 2);
  return State{s, s + padded, s + padded + 1};
}

// sum[d..] = sum * decay + score . values over positions [from, to) of the page, for 16 * vectors entries of the head.
template <int rows, int vectors>
static inline void add_values(const State* state, const float (*score)[kPage], const float* decay, const float* values, int from, int to,
                              int d, int padded) {
  F sum[rows][vectors];
  for (int r = 0; r < rows; r++) {
    for (int i = 0; i < vectors; i++) sum[r][i] = f_mul(f_load(state[r].sum + d + 16 * i), f_set(decay[r]));
  }
  for (int j = from; j < to; j++) {
    F value[vectors];
#pragma GCC unroll 2
    for (int i = 0; i < vectors; i++) value[i] = f_load(values + j * padded + 16 * i);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      F weight = f_set(score[r][j]);
#pragma GCC unroll 2
      for (int i = 0; i < vectors; i++) sum[r][i] = f_fma(weight, value[i], sum[r][i]);
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int i = 0; i < vectors; i++) f_store(state[r].sum + d + 16 * i, sum[r][i]);
  }
}

template <int rows>
static inline void attend_page(const QueryRow* const* q, const State* state, const float* keys, const float* values, int64_t start,
                               int head_dim, int padded, float scale) {
  F low[rows], high[rows];
  for (int r = 0; r < rows; r++) low[r] = high[r] = f_zero();
  for (int d = 0; d < head_dim; d++) {
    F first = f_load(keys + d * kPage), second = f_load(keys + d * kPage + 16);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      F query = f_set(q[r]->q[d]);
      low[r] = f_fma(query, first, low[r]);
      high[r] = f_fma(query, second, high[r]);
    }
  }
  float score[rows][kPage], decay[rows];
  int from = kPage, to = 0;
  for (int r = 0; r < rows; r++) {
    f_store(score[r], f_mul(low[r], f_set(scale)));
    f_store(score[r] + 16, f_mul(high[r], f_set(scale)));
    int begin = q[r]->first > start ? (int)(q[r]->first - start) : 0;
    int end = q[r]->last - start < kPage - 1 ? (int)(q[r]->last - start) + 1 : kPage;
    for (int j = 0; j < begin; j++) score[r][j] = -__builtin_inff();
    for (int j = end; j < kPage; j++) score[r][j] = -__builtin_inff();
    from = begin < from ? begin : from;
    to = end > to ? end : to;
    F a = f_load(score[r]), b = f_load(score[r] + 16);
    float before = *state[r].largest, here = f_largest(f_max(a, b)), largest = here > before ? here : before;
    a = f_exp(f_sub(a, f_set(largest)));
    b = f_exp(f_sub(b, f_set(largest)));
    f_store(score[r], a);
    f_store(score[r] + 16, b);
    decay[r] = f_lane(f_exp(f_set(before - largest)), 0);
    *state[r].largest = largest;
    *state[r].weight = *state[r].weight * decay[r] + f_sum(f_add(a, b));
  }
  int d = 0;
  for (; d + 16 * kValueVectors <= padded; d += 16 * kValueVectors) {
    add_values<rows, kValueVectors>(state, score, decay, values + d, from, to, d, padded);
  }
  for (; d < padded; d += 16) add_values<rows, 1>(state, score, decay, values + d, from, to, d, padded);
}

static void attend_rows(const QueryRow* const* q, const State* state, int count, const float* keys, const float* values, int64_t start,
                        int head_dim, int padded, float scale) {
  switch (count) {
    case 4:
      return attend_page<4>(q, state, keys, values, start, head_dim, padded, scale);
    case 3:
      return attend_page<3>(q, state, keys, values, start, head_dim, padded, scale);
    case 2:
      return attend_page<2>(q, state, keys, values, start, head_dim, padded, scale);
    default:
      return attend_page<1>(q, state, keys, values, start, head_dim, padded, scale);
  }
}

static const float* widen(const void* half, float* to, int count) {
  const uint16_t* from = (const uint16_t*)half;
  for (int i = 0; i < count; i += 16) f_store(to + i, f_load_f16(from + i));
  return to;
}

static void attend(const QueryRow* rows, int count, const PageView* pages, int64_t page_count, int64_t first_page, int head_dim,
                   float scale, bool half, float* scratch) {
  int padded = (head_dim + 15) / 16 * 16;
  float *key_scratch = scratch, *value_scratch = scratch + (size_t)padded * kPage, *states = value_scratch + (size_t)padded * kPage;
  for (int r = 0; r < count; r++) {
    State s = state_of(states, r, padded);
    for (int d = 0; d < padded; d++) s.sum[d] = 0;
    *s.largest = -__builtin_inff();
    *s.weight = 0;
  }
  for (int64_t p = 0; p < page_count; p++) {
    int64_t start = (first_page + p) * kPage;
    const float *keys = (const float*)pages[p].keys, *values = (const float*)pages[p].values;
    if (half) {
      keys = widen(pages[p].keys, key_scratch, head_dim * kPage);
      values = widen(pages[p].values, value_scratch, padded * kPage);
    }
    const QueryRow* q[kTile];
    State state[kTile];
    int active = 0;
    for (int r = 0; r < count; r++) {
      if (rows[r].last < start || rows[r].first >= start + kPage) continue;
      q[active] = &rows[r];
      state[active++] = state_of(states, r, padded);
      if (active == kTile) {
        attend_rows(q, state, active, keys, values, start, head_dim, padded, scale);
        active = 0;
      }
    }
    if (active) attend_rows(q, state, active, keys, values, start, head_dim, padded, scale);
  }
  for (int r = 0; r < count; r++) {
    State s = state_of(states, r, padded);
    for (int d = 0; d < head_dim; d++) rows[r].out[d] = s.sum[d] / *s.weight;
  }
}

// Values past float16's range are stored as its largest: an infinity would turn masked zeros into NaN.
static inline uint16_t saturated_half(float x) { return float_to_half(x > 65504.0f ? 65504.0f : (x < -65504.0f ? -65504.0f : x)); }

static void store_kv(const float* k, const float* v, int head_dim, int slot, bool half, void* keys, void* values) {
  int padded = (head_dim + 15) / 16 * 16;
  for (int d = 0; d < head_dim; d++) {
    if (half) {
      ((uint16_t*)keys)[d * kPage + slot] = saturated_half(k[d]);
      ((uint16_t*)values)[slot * padded + d] = saturated_half(v[d]);
    } else {
      ((float*)keys)[d * kPage + slot] = k[d];
      ((float*)values)[slot * padded + d] = v[d];
    }
  }
}

void set_attention_kernels(Kernels& k) {
  k.attend = attend;
  k.store_kv = store_kv;
}

}  // namespace LINNET_ISA
}  // namespace linnet
