// Attention over KV pages: one pass, online softmax (Milakov & Gimelshein 2018), merged page by page at absolute
// positions. A row's sums run over its own pages in order, whatever rows share its tile and however its prompt was cut.
#include "kernels.h"
#include "simd.h"

namespace linnet {
namespace LINNET_ISA {

// Query rows that share each load of keys and values, and vectors of accumulators that fit the registers beside them.
#if defined(LINNET_AVX512)
constexpr int kTile = 8, kScoreVectors = 2, kAccumulators = 16;
#else
constexpr int kTile = 4, kScoreVectors = 1, kAccumulators = 4;
#endif

constexpr int kFew = 8;  // most rows for which halves are widened at every load

#define LINNET_UNROLL _Pragma("GCC unroll 16")

// A page from position `start`: keys [head_dim][kPage] and values [kPage][padded] of the format that the tile reads.
template <class Format>
struct Page {
  const typename Format::Value *keys, *values;
  int64_t start;

  inline F keys_at(int i) const { return Format::load(keys + i); }
  inline F values_at(int i) const { return Format::load(values + i); }
};

// The same for the first tile, which asks for each entry of the next page, as it is stored, when it loads this one's: into the
// second-level cache, and spread out, since a burst would hold up the loads behind it.
template <class Format>
struct LeadingPage : Page<Format> {
  const char *next_keys, *next_values;
  int entry_bytes;

  inline F keys_at(int i) const {
    __builtin_prefetch(next_keys + i * entry_bytes, 0, 2);
    return Page<Format>::keys_at(i);
  }
  inline F values_at(int i) const {
    __builtin_prefetch(next_values + i * entry_bytes, 0, 2);
    return Page<Format>::values_at(i);
  }
};

// A query row and its running state: sum [padded], then attend_state's lanes of the weight and of the largest score.
struct Running {
  const QueryRow* row;
  float* sum;
};

// score[r][j] = q_r . key_j, entries of the head ascending.
template <int rows, class AnyPage>
static inline void score_keys(const Running* tile, const AnyPage& page, int head_dim, float (*score)[kPage]) {
  const float* query[rows];
  for (int r = 0; r < rows; r++) query[r] = tile[r].row->q;
  for (int j = 0; j < kPage; j += 16 * kScoreVectors) {
    F sum[rows][kScoreVectors];
    for (int r = 0; r < rows; r++) {
      for (int i = 0; i < kScoreVectors; i++) sum[r][i] = f_zero();
    }
    for (int d = 0; d < head_dim; d++) {
      F key[kScoreVectors];
      LINNET_UNROLL for (int i = 0; i < kScoreVectors; i++) key[i] = page.keys_at(d * kPage + j + 16 * i);
      LINNET_UNROLL for (int r = 0; r < rows; r++) {
        F q = f_set(query[r][d]);
        LINNET_UNROLL for (int i = 0; i < kScoreVectors; i++) {
          sum[r][i] = f_fma(q, key[i], sum[r][i]);
          LINNET_KEEP(sum[r][i]);
        }
      }
    }
    LINNET_UNROLL for (int r = 0; r < rows; r++) {
      LINNET_UNROLL for (int i = 0; i < kScoreVectors; i++) f_store(score[r] + j + 16 * i, sum[r][i]);
    }
  }
}

// sum[r] += weight[r][j] * value_j over positions [from, to) of the page, ascending, for entries [d, padded) of the head.
template <int rows, int vectors, class AnyPage>
static inline void add_values(const Running* tile, const float (*weight)[kPage], const AnyPage& page, int from, int to, int d, int padded) {
  for (; d + 16 * vectors <= padded; d += 16 * vectors) {
    F sum[rows][vectors];
    LINNET_UNROLL for (int r = 0; r < rows; r++) {
      LINNET_UNROLL for (int i = 0; i < vectors; i++) sum[r][i] = f_load(tile[r].sum + d + 16 * i);
    }
    for (int j = from; j < to; j++) {
      F value[vectors];  // each loaded where the first row wants it: all at once they would not fit beside the sums of one row
      LINNET_UNROLL for (int r = 0; r < rows; r++) {
        F w = f_set(weight[r][j]);
        LINNET_UNROLL for (int i = 0; i < vectors; i++) {
          if (r == 0) value[i] = page.values_at(j * padded + d + 16 * i);
          sum[r][i] = f_fma(w, value[i], sum[r][i]);
          LINNET_KEEP(sum[r][i]);
        }
      }
    }
    LINNET_UNROLL for (int r = 0; r < rows; r++) {
      LINNET_UNROLL for (int i = 0; i < vectors; i++) f_store(tile[r].sum + d + 16 * i, sum[r][i]);
    }
  }
  if constexpr (vectors > 1) add_values<rows, vectors / 2>(tile, weight, page, from, to, d, padded);
}

// Positions [begin, end) of the page that a row sees.
static inline int begin_of(const QueryRow& row, int64_t start) { return row.first > start ? (int)(row.first - start) : 0; }
static inline int end_of(const QueryRow& row, int64_t start) { return row.last - start < kPage - 1 ? (int)(row.last - start) + 1 : kPage; }

// Lanes outside [begin, end) become -infinity. A NaN inside becomes infinity, which the softmax makes NaN again.
static inline void mask(F& low, F& high, int begin, int end) {
  constexpr float no = -__builtin_inff(), yes = __builtin_inff();
#define LINNET_EIGHT(x) x, x, x, x, x, x, x, x
#define LINNET_PAGE(x) LINNET_EIGHT(x), LINNET_EIGHT(x), LINNET_EIGHT(x), LINNET_EIGHT(x)
  static const float bounds[3 * kPage] = {LINNET_PAGE(no), LINNET_PAGE(yes), LINNET_PAGE(no)};
#undef LINNET_PAGE
#undef LINNET_EIGHT
  const float *from = bounds + kPage - begin, *to = bounds + 2 * kPage - end;
  low = f_min(f_min(low, f_load(from)), f_load(to));
  high = f_min(f_min(high, f_load(from + 16)), f_load(to + 16));
}

// A row's scores of a page become weights e^(score - largest so far); its sums of earlier pages shrink where the largest grows.
static inline void soften(const AttentionShape& shape, const Running& running, int64_t start, int padded, float* score) {
  const QueryRow& row = *running.row;
  F scale = f_set(shape.scale), low = f_mul(f_load(score), scale), high = f_mul(f_load(score + 16), scale);
  if (row.slope != 0) {
    static const float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    F slope = f_set(row.slope), distance = f_add(f_set((float)(start - row.position)), f_load(kLanes));
    low = f_add(low, f_mul(slope, distance));
    high = f_add(high, f_mul(slope, f_add(distance, f_set(16.0f))));
  }
  if (shape.softcap != 0) {
    F cap = f_set(shape.softcap), inverse = f_set(1.0f / shape.softcap);
    low = f_mul(cap, f_tanh(f_mul(low, inverse)));
    high = f_mul(cap, f_tanh(f_mul(high, inverse)));
  }
  int begin = begin_of(row, start), end = end_of(row, start);
  if (begin > 0 || end < kPage) mask(low, high, begin, end);
  float *total = running.sum + padded, *most = total + 16;
  F largest = f_load(most), here = f_largest_all(f_max(low, high));
  if (f_first(here) > f_first(largest)) {
    F decay = f_exp(f_sub(largest, here));
    for (float* sum = running.sum; sum <= total; sum += 16) f_store(sum, f_mul(f_load(sum), decay));
    f_store(most, here);
    largest = here;
  }
  low = f_exp(f_sub(low, largest));
  high = f_exp(f_sub(high, largest));
  f_store(score, low);
  f_store(score + 16, high);
  f_store(total, f_add(f_load(total), f_add(low, high)));
}

// All rows of a tile, and the positions [from, to) that any of them sees. Stands once: inlined in every tile it would be most of them.
__attribute__((noinline)) static void soften_tile(const AttentionShape& shape, const Running* tile, int rows, int64_t start,
                                                  float (*score)[kPage], int& from, int& to) {
  from = kPage;
  to = 0;
  for (int r = 0; r < rows; r++) {
    soften(shape, tile[r], start, padded_values(shape.value_dim), score[r]);
    int begin = begin_of(*tile[r].row, start), end = end_of(*tile[r].row, start);
    from = begin < from ? begin : from;
    to = end > to ? end : to;
  }
}

// `rows` query rows, all of which see some of the page.
template <int rows, class AnyPage>
static void attend_tile(const AttentionShape& shape, const Running* tile, const AnyPage& page) {
  int from, to;
  float score[rows][kPage];
  score_keys<rows>(tile, page, shape.head_dim, score);
  soften_tile(shape, tile, rows, page.start, score, from, to);
  constexpr int fit = kAccumulators / rows, vectors = fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  add_values<rows, vectors>(tile, score, page, from, to, 0, padded_values(shape.value_dim));
}

template <int rows, class AnyPage>
static void attend_tile_of(const AttentionShape& shape, const Running* tile, int count, const AnyPage& page) {
  if (count == rows) {
    attend_tile<rows>(shape, tile, page);
  } else if constexpr (rows > 1) {
    attend_tile_of<rows - 1>(shape, tile, count, page);
  }
}

// `count` rows in tiles, the first of which fetches the next page.
template <class Format>
static void attend_tiles(const AttentionShape& shape, const Running* rows, int count, LeadingPage<Format> page) {
  int r = 0;
  for (; r + kTile <= count; r += kTile) {
    r == 0 ? attend_tile<kTile>(shape, rows, page) : attend_tile<kTile, Page<Format>>(shape, rows + r, page);
  }
  if (r) page.entry_bytes = 0;
  attend_tile_of<kTile - 1>(shape, rows + r, count - r, page);
}

template <class Format>
static void widen_floats(const void* from, int count, float* to) {
  for (int i = 0; i < count; i += 16) f_store(to + i, Format::load((const typename Format::Value*)from + i));
}

static void widen_q8_0_keys(const void* page, int head_dim, float* to) {
  const int8_t* q = (const int8_t*)page;
  const uint16_t* scales = (const uint16_t*)(q + head_dim * kPage);
  for (int block = 0; block < head_dim; block += 32, scales += kPage) {
    F low = f_load_f16(scales), high = f_load_f16(scales + 16);
    for (int d = block; d < head_dim && d < block + 32; d++) {
      f_store(to + d * kPage, f_mul(f_load_i8(q + d * kPage), low));
      f_store(to + d * kPage + 16, f_mul(f_load_i8(q + d * kPage + 16), high));
    }
  }
}

// scales: room for those of a page in float32.
static void widen_q8_0_values(const void* page, int value_dim, float* scales, float* to) {
  int padded = padded_values(value_dim), blocks = kv_blocks(value_dim);
  const int8_t* q = (const int8_t*)page;
  widen_floats<Float16>(q + padded * kPage, blocks * kPage, scales);
  for (int j = 0; j < kPage; j++, scales += blocks, q += padded, to += padded) {
    for (int d = 0; d < padded; d += 16) f_store(to + d, f_mul(f_load_i8(q + d), f_set(scales[d / 32])));
  }
}

// Asks for the scales behind `entries` integers a position of a page's keys or values: a line a block.
static void fetch_q8_0_scales(const void* page, int entries, int blocks) {
  for (int b = 0; b < blocks; b++) __builtin_prefetch((const char*)page + (entries + 2 * b) * kPage, 0, 2);
}

// `count` rows that see a page as it is stored. Many read a copy in float32, made once for all; a few widen halves as they load them.
static void attend_stored(const AttentionShape& shape, const Running* rows, int count, const PageView& page, const PageView& next,
                          int64_t start, float* scratch) {
  auto run = [&](auto format, const void* keys, const void* values) {
    using Format = decltype(format);
    using Value = typename Format::Value;
    Page<Format> here{(const Value*)keys, (const Value*)values, start};
    int entry_bytes = shape.type == KvType::F32 ? 4 : shape.type == KvType::Q8_0 ? 1 : 2;
    attend_tiles(shape, rows, count, LeadingPage<Format>{here, (const char*)next.keys, (const char*)next.values, entry_bytes});
  };
  int key_count = shape.head_dim * kPage, value_count = padded_values(shape.value_dim) * kPage;
  float *keys = scratch, *values = keys + key_count;
  switch (shape.type) {
    case KvType::F32:
      return run(Float32(), page.keys, page.values);
    case KvType::F16:
      if (count <= kFew) return run(Float16(), page.keys, page.values);
      widen_floats<Float16>(page.keys, key_count, keys);
      widen_floats<Float16>(page.values, value_count, values);
      break;
    case KvType::BF16:
      if (count <= kFew) return run(BFloat16(), page.keys, page.values);
      widen_floats<BFloat16>(page.keys, key_count, keys);
      widen_floats<BFloat16>(page.values, value_count, values);
      break;
    case KvType::Q8_0:
      fetch_q8_0_scales(next.keys, shape.head_dim, kv_blocks(shape.head_dim));
      fetch_q8_0_scales(next.values, padded_values(shape.value_dim), kv_blocks(shape.value_dim));
      widen_q8_0_keys(page.keys, shape.head_dim, keys);
      widen_q8_0_values(page.values, shape.value_dim, values + value_count, values);
      break;
  }
  run(Float32(), keys, values);
}

static void attend(const AttentionShape& shape, const QueryRow* rows, int count, const PageView* pages, int64_t page_count,
                   int64_t first_page, float* scratch) {
  int padded = padded_values(shape.value_dim);
  scratch = (float*)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);  // vectors across two cache lines would be read twice
  float* states = scratch + page_floats(shape);
  for (int r = 0; r < count; r++) {
    // A sink is a score seen before all others, with a weight of 1 and no value; without one that weight decays to nothing.
    float* sum = states + r * attend_state(shape);
    for (int d = 0; d < padded + 16; d++) sum[d] = d == padded;
    f_store(sum + padded + 16, f_set(rows[r].sink));
  }
  static_assert(sizeof(Running) <= 4 * sizeof(float), "attend_scratch has room for one a row");
  Running* seeing = (Running*)(states + (size_t)count * attend_state(shape));
  for (int64_t p = 0; p < page_count; p++) {
    int64_t start = (first_page + p) * kPage;
    int active = 0;
    for (int r = 0; r < count; r++) {
      if (rows[r].first < start + kPage && rows[r].last >= start) seeing[active++] = Running{&rows[r], states + r * attend_state(shape)};
    }
    attend_stored(shape, seeing, active, pages[p], pages[p + 1 < page_count ? p + 1 : p], start, scratch);
  }
  for (int r = 0; r < count; r++) {
    const float* sum = states + r * attend_state(shape);
    F total = f_sum_all(f_load(sum + padded));
    for (int d = 0; d < shape.value_dim; d += 16) {
      int rest = shape.value_dim - d;
      F out = f_div(f_load(sum + d), total);
      rest < 16 ? f_store_part(rows[r].out + d, out, rest) : f_store(rows[r].out + d, out);
    }
  }
}

void set_attention_kernels(Kernels& k) { k.attend = attend; }

}  // namespace LINNET_ISA
}  // namespace linnet
