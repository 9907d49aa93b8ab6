// Products with weights, shared out over the threads by rows of weights and runs of tokens.
#include "linear.h"

#include <algorithm>

namespace linnet {

namespace {

constexpr int64_t kTaskBytes = 96 << 10;  // weights of one task: stays in L2 while every token tile passes over it
constexpr int64_t kTaskTiles = 32;        // token tiles of one task, so that narrow matrices still feed many threads

Kernels::FloatLinear float_kernel(const Kernels& k, Type type) {
  return type == Type::F32 ? k.linear_f32 : type == Type::F16 ? k.linear_f16 : k.linear_bf16;
}

void add_bias(const Product& p, int64_t first_token, int64_t tokens, int64_t row, int64_t rows) {
  for (int64_t t = first_token; p.bias && t < first_token + tokens; t++) {
    for (int64_t r = row; r < row + rows; r++) p.y[t * p.stride + r] += p.bias[r];
  }
}

// How a product is cut: into runs of `step` units (groups of rows, or rows of floats) by runs of `tokens`.
struct Cut {
  int64_t step, tokens, row_tasks, tasks;
};

Cut cut_of(const Kernels& k, const Product& p) {
  const Matrix& w = *p.w;
  int64_t step, all;
  if (w.format.packed_bytes) {
    int64_t tile_groups = p.tokens == 1 ? 1 : k.tile_groups;
    step = std::max<int64_t>(1, kTaskBytes / ((int64_t)w.group_bytes() * tile_groups)) * tile_groups;
    all = w.groups();
  } else {
    step = std::clamp<int64_t>(2 * kTaskBytes / (int64_t)w.row_bytes(), 8, 64) / 8 * 8;
    all = w.rows;
  }
  int64_t row_tasks = (all + step - 1) / step, tokens = kTaskTiles * k.tile_tokens;
  return {step, tokens, row_tasks, row_tasks * ((p.tokens + tokens - 1) / tokens)};
}

// Groups [first, last) times tokens [t, end). A row-major matrix is packed on the way, a tile of groups at a time.
void block_task(const Kernels& k, const Product& p, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const Matrix& w = *p.w;
  auto kernel = k.block_linear[(int)w.format.type];
  size_t token_bytes = form_bytes(form_for(w), w.columns);
  int64_t tile_groups = p.tokens == 1 ? 1 : k.tile_groups;
  static thread_local std::vector<uint8_t> packed;
  if (!w.packed) packed.resize((size_t)tile_groups * w.group_bytes());
  auto tile = [&](int64_t g, int64_t t, const uint8_t* blocks) {
    int groups = (int)std::min(tile_groups, last - g), tokens = (int)std::min<int64_t>(k.tile_tokens, end - t);
    int64_t row = g * kRows, rows = std::min<int64_t>(kRows * groups, w.rows - row);
    float *out = p.y + t * p.stride + row, partial[kMostTokens * kMostGroups * kRows];
    bool whole = rows == kRows * groups;
    int64_t stride = whole ? p.stride : kRows * groups;
    kernel(blocks, w.blocks(), groups, (const uint8_t*)p.x + token_bytes * (size_t)t, tokens, whole ? out : partial, stride);
    for (int i = 0; !whole && i < tokens; i++) std::copy(partial + i * stride, partial + i * stride + rows, out + i * p.stride);
    add_bias(p, t, tokens, row, rows);
  };
  if (w.packed) {
    for (int64_t t = begin; t < end; t += k.tile_tokens) {
      for (int64_t g = first; g < last; g += tile_groups) tile(g, t, w.group(p.expert, g));
    }
    return;
  }
  for (int64_t g = first; g < last; g += tile_groups) {
    for (int64_t i = 0; i < std::min(tile_groups, last - g); i++)
      w.pack_group(p.expert, g + i, packed.data() + (size_t)i * w.group_bytes());
    for (int64_t t = begin; t < end; t += k.tile_tokens) tile(g, t, packed.data());
  }
}

void float_task(const Kernels& k, const Product& p, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const Matrix& w = *p.w;
  auto kernel = float_kernel(k, w.format.type);
  for (int64_t t = begin; t < end; t += k.float_tile_tokens) {
    int tokens = (int)std::min<int64_t>(k.float_tile_tokens, end - t);
    kernel(w.raw_row(p.expert, first), (int)(last - first), w.columns, (const float*)p.x + t * w.columns, tokens,
           p.y + t * p.stride + first, p.stride);
    add_bias(p, t, tokens, first, last - first);
  }
}

}  // namespace

void run_products(const Run& run, const Product* products, size_t count) {
  const Kernels& k = run.context.kernels;
  static thread_local std::vector<Cut> kept;
  std::vector<Cut>& cuts = kept;
  cuts.clear();
  int64_t tasks = 0;
  for (size_t i = 0; i < count; i++) {
    cuts.push_back(cut_of(k, products[i]));
    tasks += cuts.back().tasks;
  }
  const Cut* cut = cuts.data();
  run.threads.run(tasks, [&, cut](int64_t task, int) {
    size_t i = 0;
    for (; task >= cut[i].tasks; i++) task -= cut[i].tasks;
    const Product& p = products[i];
    int64_t all = p.w->format.packed_bytes ? p.w->groups() : p.w->rows;
    int64_t first = task % cut[i].row_tasks * cut[i].step, last = std::min(all, first + cut[i].step);
    int64_t begin = task / cut[i].row_tasks * cut[i].tokens, end = std::min(p.tokens, begin + cut[i].tokens);
    (p.w->format.packed_bytes ? block_task : float_task)(k, p, first, last, begin, end);
  });
}

Form form_for(const Matrix& w) { return !w.format.packed_bytes ? Form::Floats : w.format.block == 256 ? Form::Q8_K : Form::Q8_0; }

size_t form_bytes(Form form, int64_t width) {
  switch (form) {
    case Form::Floats:
      return sizeof(float) * (size_t)width;
    case Form::Q8_0:
      return sizeof(ActivationQ8_0<1>) * (size_t)(width / 32);
    default:
      return sizeof(ActivationQ8_K<1>) * (size_t)(width / 256);
  }
}

void quantize_tile(const Run& run, Form form, const float* x, int64_t width, int64_t tokens, void* to) {
  const Kernels& k = run.context.kernels;
  (form == Form::Q8_K ? k.quantize_q8_k : k.quantize_q8_0)(x, width, (int)tokens, to);
}

int record_form(Tape& tape, int x, Form form, int64_t width) {
  if (form == Form::Floats) return x;
  auto [found, missing] = tape.forms.try_emplace({x, (int)form}, -1);
  if (missing) {
    int made = found->second = tape.value(tape.rows_of(x), form_bytes(form, width));
    tape.add_rows(tape.rows_of(x), {x}, {made}, [=](const Run& run, int64_t first, int64_t last) {
      quantize_tile(run, form, run.row(x, first), width, last - first, run.row<void>(made, first));
    });
  }
  return found->second;
}

int record_linear(Tape& tape, int x, std::shared_ptr<Matrix> w, std::shared_ptr<Vector> bias) {
  struct Part {
    std::shared_ptr<Matrix> w;
    std::shared_ptr<Vector> bias;
    int y;
  };
  using Parts = std::vector<Part>;
  Rows rows = tape.rows_of(x);
  int input = record_form(tape, x, form_for(*w), w->columns), y = tape.floats(rows, w->rows);
  Part part{w, bias, y};
  if (auto parts = std::static_pointer_cast<Parts>(tape.open(input))) {
    parts->push_back(part);
    tape.also({y});
    return y;
  }
  auto parts = std::make_shared<Parts>(1, part);
  tape.add_whole({input}, {y}, [=](const Run& run) {
    static thread_local std::vector<Product> products;
    products.clear();
    for (const Part& p : *parts) {
      products.push_back({p.w.get(), 0, run.row<void>(input), run.count(rows), run.row(p.y), p.w->rows, p.bias ? p.bias->data() : nullptr});
    }
    run_products(run, products.data(), products.size());
  });
  tape.keep_open(input, parts);
  return y;
}

}  // namespace linnet
