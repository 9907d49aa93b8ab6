// Recurrent layers: what a sequence remembers is a state of fixed size, of which a page holds one (see Ops.allocate_cache in base.py).
// Shared out by sequence and columns; each column goes from row to row as it would one step at a time, so that bits do not depend on
// how a sequence is cut.
#include <algorithm>
#include <cmath>
#include <vector>

#include "record.h"

namespace linnet {

namespace {

constexpr int64_t kConvolvedColumns = 512;  // of one task
constexpr int64_t kStateColumns = 32;       // likewise: of a head of 128, 16 KiB of state
constexpr int64_t kFewRows = 3;             // so many are done where the state lies; more of them on a copy whose rows lie together

// The rows [first, last) of one sequence: where its state comes from, and where it goes after rows `end` - 1 (ascending).
struct StateRun {
  int64_t first, last;
  const float* source;  // null: zeros
  struct Saved {
    int64_t end;
    float* state;
  } saved[2];
  int saves;
};

void find_runs(const StepView& s, const Cache& cache, const Cache::Layer& l, std::vector<StateRun>& runs) {
  runs.clear();
  for (int64_t first = 0; first < s.count;) {
    int64_t last = first + 1;
    while (last < s.count && s.sequence[last] == s.sequence[first]) last++;
    const int32_t* pages = s.pages(l.group, s.sequence[first]);
    int64_t begin = s.positions[first], page = s.positions[last - 1] / kPage;
    StateRun run{first, last, begin ? cache.state(l, pages[(begin - 1) / kPage]) : nullptr, {}, 0};
    if (page * kPage > begin) run.saved[run.saves++] = {first + page * kPage - begin, cache.state(l, pages[page - 1])};
    run.saved[run.saves++] = {last, cache.state(l, pages[page])};
    runs.push_back(run);
    first = last;
  }
}

// Runs work(run, first column, how many) for every run and up to `most` of `width` columns at a time.
template <class Work>
void share_out(const Run& run, int layer, int64_t width, int64_t most, Work work) {
  static thread_local std::vector<StateRun> kept;
  std::vector<StateRun>& runs = kept;
  find_runs(run.step, *run.cache, run.cache->layers[(size_t)layer], runs);
  int64_t parts = (width + most - 1) / most;
  run.threads.run((int64_t)runs.size() * parts, [&](int64_t index, int) {
    int64_t start = index % parts * most;
    work(runs[(size_t)(index / parts)], start, std::min(most, width - start));
  });
}

void convolve_columns(const Run& run, const StateRun& rows, const ConvolveShape& shape, const float* weights, const float* bias, int x,
                      int y, int64_t start, int64_t count) {
  static thread_local std::vector<float> zeros;
  zeros.assign((size_t)count, 0.0f);
  int64_t width = shape.width, taps = shape.taps;
  // The input at a position counted from the first row on: of this step, or remembered.
  auto input = [&](int64_t at) -> const float* {
    if (at >= 0) return run.row(x, rows.first + at) + start;
    return rows.source ? rows.source + shape.start + (taps - 1 + at) * width + start : zeros.data();
  };
  const float* inputs[kMostTaps];
  for (int64_t r = 0; r < rows.last - rows.first; r++) {
    for (int64_t tap = 0; tap < taps; tap++) inputs[tap] = input(r - taps + 1 + tap);
    run.context.kernels.convolve(inputs, (int)taps, weights + start, width, bias ? bias + start : nullptr, count,
                                 run.row(y, rows.first + r) + start);
  }
  // The last page first: the other may be the one that is read from.
  for (int i = rows.saves - 1; i >= 0; i--) {
    int64_t end = rows.saved[i].end - rows.first;
    for (int64_t j = 0; j < taps - 1; j++) {
      const float* from = input(end - taps + 1 + j);
      std::copy(from, from + count, rows.saved[i].state + shape.start + j * width + start);
    }
  }
}

void copy_block(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++) {
    if (from) {
      std::copy(from + i * from_stride, from + i * from_stride + columns, to + i * to_stride);
    } else {
      std::fill(to + i * to_stride, to + i * to_stride + columns, 0.0f);
    }
  }
}

struct DeltaValues {
  int q, k, v, rate, strength, y;
};

void delta_columns(const Run& run, const StateRun& rows, const DeltaShape& shape, const DeltaValues& at, const Vector& decay, int64_t head,
                   int64_t start, int64_t count) {
  static thread_local std::vector<float> block;
  int64_t key_head = head / (shape.value_heads / shape.key_heads);
  int64_t place = shape.start + head * shape.key_dim * shape.value_dim + start;  // of these columns of S in a state
  const float* source = rows.source ? rows.source + place : nullptr;
  int64_t first = rows.first;
  for (int i = 0; i < rows.saves; i++) {
    float* target = rows.saved[i].state + place;
    bool few = rows.saved[i].end - first <= kFewRows;
    int64_t stride = few ? shape.value_dim : count;
    block.resize((size_t)(shape.key_dim * count));
    float* state = few ? target : block.data();
    if (state != source) copy_block(source, shape.value_dim, state, stride, shape.key_dim, count);
    for (int64_t r = first; r < rows.saved[i].end; r++) {
      float rate = run.row(at.rate, r)[head], soft = std::max(rate, 0.0f) + std::log1p(std::exp(-std::fabs(rate)));
      DeltaRule rule{run.row(at.q, r) + key_head * shape.key_dim,
                     run.row(at.k, r) + key_head * shape.key_dim,
                     std::exp(-decay[(size_t)head] * soft),
                     run.row(at.strength, r)[head],
                     (int)shape.key_dim,
                     stride};
      int64_t column = head * shape.value_dim + start;
      run.context.kernels.delta_rule(rule, state, run.row(at.v, r) + column, (int)count, run.row(at.y, r) + column);
    }
    if (!few) copy_block(state, stride, target, shape.value_dim, shape.key_dim, count);
    source = target;
    first = rows.saved[i].end;
  }
}

}  // namespace

int record_convolve(Tape& tape, const ConvolveShape& shape, int x, VectorPointer weight, VectorPointer bias) {
  auto by_tap = std::make_shared<Vector>();  // [taps][width] of [width][taps]
  by_tap->resize(weight->size());
  for (int64_t c = 0; c < shape.width; c++) {
    for (int64_t tap = 0; tap < shape.taps; tap++) (*by_tap)[(size_t)(tap * shape.width + c)] = (*weight)[(size_t)(c * shape.taps + tap)];
  }
  int y = tape.floats(Rows::All, shape.width);
  tape.add_whole({x}, {y}, [=](const Run& run) {
    share_out(run, shape.layer, shape.width, kConvolvedColumns, [&](const StateRun& rows, int64_t start, int64_t count) {
      convolve_columns(run, rows, shape, by_tap->data(), bias ? bias->data() : nullptr, x, y, start, count);
    });
  });
  return y;
}

int record_delta_rule(Tape& tape, const DeltaShape& shape, int q, int k, int v, int rate, int strength, VectorPointer decay) {
  int y = tape.floats(Rows::All, shape.value_heads * shape.value_dim);
  DeltaValues values{q, k, v, rate, strength, y};
  tape.add_whole({q, k, v, rate, strength}, {y}, [=](const Run& run) {
    int64_t blocks = (shape.value_dim + kStateColumns - 1) / kStateColumns;
    share_out(run, shape.layer, shape.value_heads * blocks, 1, [&](const StateRun& rows, int64_t index, int64_t) {
      int64_t start = index % blocks * kStateColumns;
      delta_columns(run, rows, shape, values, *decay, index / blocks, start, std::min(kStateColumns, shape.value_dim - start));
    });
  });
  return y;
}

}  // namespace linnet
