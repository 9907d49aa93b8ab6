// Row work: every op that computes a row from the same row of its inputs.
#include "record.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace linnet {

namespace {

// Work that does `one(run, row)` for each row.
template <class One>
Tape::RowWork each_row(One one) {
  return [=](const Run& run, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) one(run, r);
  };
}

// Records a value of `width` floats a row, made row by row from others of the same rows.
template <class One>
int record_rows(Tape& tape, std::vector<int> reads, Rows rows, int64_t width, One one) {
  int y = tape.floats(rows, width);
  tape.add_rows(rows, std::move(reads), {y}, each_row([=](const Run& run, int64_t r) { one(run, r, run.row(y, r)); }));
  return y;
}

}  // namespace

int record_constant(Tape& tape, std::vector<float> values, int64_t width) {
  return record_rows(tape, {}, Rows::All, width,
                     [=](const Run&, int64_t r, float* y) { std::memcpy(y, values.data() + r * width, sizeof(float) * (size_t)width); });
}

int record_embed(Tape& tape, MatrixPointer table, Source source, int64_t offset) {
  int64_t width = table->columns;
  return record_rows(tape, {}, Rows::All, width, [=](const Run& run, int64_t r, float* y) {
    const StepView& s = run.step;
    int64_t index = source == Source::Tokens ? s.tokens[r] : source == Source::Previous ? s.previous[r] : s.positions[r] + offset;
    if (index < 0) {  // before the first token there is none
      std::fill(y, y + width, 0.0f);
    } else {
      table->row_to_floats(index, y);
    }
  });
}

int record_norm(Tape& tape, int x, VectorPointer weight, VectorPointer bias, int kind, float epsilon, int64_t groups) {
  int64_t width = tape.width_of(x), part = width / groups;
  // One weight for every part, or one for each.
  auto step_of = [&](const VectorPointer& v) { return v && (int64_t)v->size() == width ? part : 0; };
  int64_t weight_step = step_of(weight), bias_step = step_of(bias);
  return record_rows(tape, {x}, tape.rows_of(x), width, [=](const Run& run, int64_t r, float* y) {
    const float* from = run.row(x, r);
    const float *w = weight ? weight->data() : nullptr, *b = bias ? bias->data() : nullptr;
    for (int64_t g = 0; g < groups; g++) {
      run.context.kernels.norm(kind, from + g * part, w ? w + g * weight_step : nullptr, b ? b + g * bias_step : nullptr, epsilon, part,
                               y + g * part);
    }
  });
}

int record_angles(Tape& tape, const RopeShape& rope, VectorPointer frequencies, int slot) {
  int half = rope.dim / 2, kind = rope.positions;
  return record_rows(tape, {}, Rows::All, rope.dim, [=](const Run& run, int64_t r, float* y) {
    const StepView& s = run.step;
    const float* f = frequencies ? frequencies->data() : s.rotations[(size_t)slot] + s.sequence[r] * (half + 1);
    int64_t position = s.positions[r], prompt = s.prompt_lengths[s.sequence[r]];
    if (kind == 1) position = std::max<int64_t>(std::min(position, prompt - 2), 0);
    if (kind == 2) position = std::max<int64_t>(position - prompt + 2, 0);
    for (int i = 0; i < half; i++) {
      // An angle is rounded to float32 as everywhere; its cosine and sine are as exact as float32 can say.
      double angle = (double)((float)position * f[i]);
      y[i] = (float)std::cos(angle) * f[half];
      y[half + i] = (float)std::sin(angle) * f[half];
    }
  });
}

int record_rotate(Tape& tape, int x, int angles, const RopeShape& rope, int64_t head_dim) {
  int64_t width = tape.width_of(x);
  return record_rows(tape, {x, angles}, Rows::All, width, [=](const Run& run, int64_t r, float* y) {
    const float *from = run.row(x, r), *cosine = run.row(angles, r);
    for (int64_t h = 0; h < width; h += head_dim) {
      run.context.kernels.rotate(from + h, cosine, cosine + rope.dim / 2, rope.start, rope.dim, (int)head_dim, rope.interleaved, y + h);
    }
  });
}

int record_activate(Tape& tape, int x, int activation) {
  int64_t width = tape.width_of(x);
  return record_rows(tape, {x}, tape.rows_of(x), width,
                     [=](const Run& run, int64_t r, float* y) { run.context.kernels.activate[activation](run.row(x, r), width, y); });
}

int record_gate(Tape& tape, int gate, int up, int activation) {
  int64_t width = tape.width_of(gate);
  return record_rows(tape, {gate, up}, tape.rows_of(gate), width, [=](const Run& run, int64_t r, float* y) {
    run.context.kernels.gate[activation](run.row(gate, r), run.row(up, r), width, y);
  });
}

int record_add(Tape& tape, int a, int b, float a_scale, float b_scale) {
  int64_t width = tape.width_of(a);
  return record_rows(tape, {a, b}, tape.rows_of(a), width, [=](const Run& run, int64_t r, float* y) {
    run.context.kernels.add(run.row(a, r), a_scale, run.row(b, r), b_scale, width, y);
  });
}

int record_scale(Tape& tape, int x, float factor) {
  int64_t width = tape.width_of(x);
  return record_rows(tape, {x}, tape.rows_of(x), width,
                     [=](const Run& run, int64_t r, float* y) { run.context.kernels.scale(run.row(x, r), factor, width, y); });
}

int record_weigh(Tape& tape, int x, int weights) {
  int64_t width = tape.width_of(x), parts = tape.width_of(weights), part = width / parts;
  return record_rows(tape, {x, weights}, tape.rows_of(x), width, [=](const Run& run, int64_t r, float* y) {
    const float *from = run.row(x, r), *w = run.row(weights, r);
    for (int64_t p = 0; p < parts; p++) run.context.kernels.scale(from + p * part, w[p], part, y + p * part);
  });
}

int record_columns(Tape& tape, int x, int64_t start, int64_t count) {
  return record_rows(tape, {x}, tape.rows_of(x), count,
                     [=](const Run& run, int64_t r, float* y) { std::memcpy(y, run.row(x, r) + start, sizeof(float) * (size_t)count); });
}

int record_append_shared(Tape& tape, int x, int shared, int64_t heads) {
  int64_t part = tape.width_of(x) / heads, more = tape.width_of(shared);
  return record_rows(tape, {x, shared}, tape.rows_of(x), heads * (part + more), [=](const Run& run, int64_t r, float* y) {
    const float *from = run.row(x, r), *tail = run.row(shared, r);
    for (int64_t h = 0; h < heads; h++) {
      y = std::copy(from + h * part, from + (h + 1) * part, y);
      y = std::copy(tail, tail + more, y);
    }
  });
}

int record_take(Tape& tape, int x) {
  int64_t width = tape.width_of(x);
  return record_rows(tape, {x}, Rows::Wanted, width, [=](const Run& run, int64_t r, float* y) {
    std::memcpy(y, run.row(x, run.step.rows[r]), sizeof(float) * (size_t)width);
  });
}

int record_softcap(Tape& tape, int x, float cap) {
  int64_t width = tape.width_of(x);
  return record_rows(tape, {x}, tape.rows_of(x), width,
                     [=](const Run& run, int64_t r, float* y) { run.context.kernels.softcap(run.row(x, r), cap, width, y); });
}

}  // namespace linnet
