// Mixtures of experts: each row chooses, rows are sorted by expert, and each expert that is wanted multiplies its rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "linear.h"
#include "record.h"

namespace linnet {

namespace {

struct Choice {
  int32_t expert;
  float weight;
};

// The experts of one row by descending score, ties to the smaller index; src/linnet/ops/reference.py (route) is the definition.
void route(const float* logits, int64_t experts, const RouterShape& router, const float* correction, const float* scale, Choice* out) {
  static thread_local std::vector<float> scores, ranks;
  static thread_local std::vector<int32_t> order;
  scores.assign(logits, logits + experts);
  if (router.scoring == 0) {
    float largest = *std::max_element(scores.begin(), scores.end()), sum = 0;
    for (float& s : scores) sum += s = std::exp(s - largest);
    for (float& s : scores) s /= sum;
  } else if (router.scoring == 1) {
    for (float& s : scores) s = 1.0f / (1.0f + std::exp(-s));
  }
  ranks = scores;
  for (int64_t e = 0; correction && e < experts; e++) ranks[(size_t)e] += correction[e];
  order.resize((size_t)experts);
  std::iota(order.begin(), order.end(), 0);
  if (router.groups > 1) {
    int64_t size = experts / router.groups;
    std::vector<std::pair<float, int64_t>> groups;
    for (int64_t g = 0; g < router.groups; g++) {
      float first = -INFINITY, second = -INFINITY;
      for (int64_t e = g * size; e < (g + 1) * size; e++) {
        float s = ranks[(size_t)e];
        if (s > first)
          second = first, first = s;
        else if (s > second)
          second = s;
      }
      groups.push_back({router.scoring == 1 && size > 1 ? first + second : first, g});
    }
    std::stable_sort(groups.begin(), groups.end(), [](auto a, auto b) { return a.first > b.first; });
    for (size_t i = (size_t)router.active_groups; i < groups.size(); i++) {
      for (int64_t e = 0; e < size; e++) ranks[(size_t)(groups[i].second * size + e)] = -INFINITY;
    }
  }
  auto better = [](int32_t a, int32_t b) { return ranks[(size_t)a] > ranks[(size_t)b] || (ranks[(size_t)a] == ranks[(size_t)b] && a < b); };
  std::partial_sort(order.begin(), order.begin() + router.active, order.end(), better);
  float sum = 0, largest = scores[(size_t)order[0]];
  for (int i = 0; i < router.active; i++) {
    float s = scores[(size_t)order[(size_t)i]];
    out[i] = {order[(size_t)i], router.scoring == 2 ? std::exp(s - largest) : s};
    sum += out[i].weight;
  }
  bool divides = router.scoring == 2 || router.normalise;
  if (router.scoring == 1) sum += 1e-20f;
  for (int i = 0; i < router.active; i++) {
    out[i].weight = (divides ? out[i].weight / sum : out[i].weight) * router.scale;
    if (scale) out[i].weight *= scale[out[i].expert];
  }
}

// The rows of a step sorted by expert. Each expert's rows begin at a whole tile of activations, `tile` rows, so that `padded` places
// are taken in all; place[row * active + i] is where the row's i-th choice went.
struct Plan {
  std::vector<int32_t> place, row_at, experts;  // row_at: -1 where nobody is
  std::vector<int64_t> begin, count;            // of each expert in `experts`
  int64_t tile = 1, padded = 0;

  void make(const Choice* choices, int64_t rows, int active, int64_t all) {
    std::vector<int64_t> counts((size_t)all, 0), next((size_t)all, 0);
    for (int64_t i = 0; i < rows * active; i++) counts[(size_t)choices[i].expert]++;
    experts.clear();
    begin.clear();
    count.clear();
    padded = 0;
    for (int64_t e = 0; e < all; e++) {
      if (!counts[(size_t)e]) continue;
      experts.push_back((int32_t)e);
      begin.push_back(padded);
      count.push_back(counts[(size_t)e]);
      next[(size_t)e] = padded;
      padded += (counts[(size_t)e] + tile - 1) / tile * tile;
    }
    place.resize((size_t)(rows * active));
    row_at.assign((size_t)padded, -1);
    for (int64_t i = 0; i < rows * active; i++) {
      int64_t at = next[(size_t)choices[i].expert]++;
      place[(size_t)i] = (int32_t)at;
      row_at[(size_t)at] = (int32_t)(i / active);
    }
  }
};

struct Experts {
  int x, choices, y;
  ExpertWeights w;
  RouterShape router;
  int activation;
};

// What a mixture computes in between, kept from step to step. src/linnet/look/memory.py plans for it.
struct Workspace {
  Plan plan;
  std::vector<float> gate, up, down;
  std::vector<uint8_t> inputs, inner;  // in the form that the matrices multiply
  std::vector<Product> products;
};

// Room for so many values; what was there is not kept, so that old and new are never there at once.
template <class T>
void grow(std::vector<T>& values, size_t count) {
  if (values.size() >= count) return;
  std::vector<T>().swap(values);
  values.resize(count);
}

const float* bias_of(const VectorPointer& bias, int64_t expert, int64_t rows) { return bias ? bias->data() + expert * rows : nullptr; }

void add_products(Workspace& work, const Matrix& w, const VectorPointer& bias, const uint8_t* x, size_t x_bytes, float* y) {
  for (size_t i = 0; i < work.plan.experts.size(); i++) {
    int64_t expert = work.plan.experts[i], begin = work.plan.begin[i];
    work.products.push_back(
        {&w, expert, x + x_bytes * (size_t)begin, work.plan.count[i], y + begin * w.rows, w.rows, bias_of(bias, expert, w.rows)});
  }
}

// Runs `tile(first, count)` for every tile of places that somebody has.
template <class Tile>
void each_tile(const Run& run, const Plan& plan, const Tile& tile) {
  run.threads.run(plan.padded / plan.tile, [&](int64_t index, int) {
    int64_t first = index * plan.tile, count = 0;
    while (count < plan.tile && plan.row_at[(size_t)(first + count)] >= 0) count++;
    tile(first, count);
  });
}

void run_experts(const Run& run, const Experts& e, Workspace& work) {
  const Matrix &up = *e.w.up, &down = *e.w.down;
  int64_t hidden = up.columns, width = up.rows;
  Form form = form_for(up), inner_form = form_for(down);
  size_t x_bytes = form_bytes(form, hidden), inner_bytes = form_bytes(inner_form, width);
  const Choice* choices = run.row<Choice>(e.choices);
  Plan& plan = work.plan;
  plan.tile = run.context.kernels.tile_tokens;
  plan.make(choices, run.step.count, e.router.active, up.experts);
  // Whichever experts the rows choose: as many for every layer.
  size_t places = (size_t)(run.step.count * e.router.active + (kMostTokens - 1) * std::min(up.experts, run.step.count * e.router.active));
  grow(work.inputs, places * x_bytes);
  grow(work.gate, e.w.gate ? places * (size_t)width : 0);
  grow(work.up, places * (size_t)width);
  grow(work.inner, inner_form == Form::Floats ? 0 : places * inner_bytes);
  grow(work.down, places * (size_t)hidden);
  each_tile(run, plan, [&](int64_t first, int64_t count) {
    static thread_local std::vector<float> tile;
    uint8_t* to = work.inputs.data() + x_bytes * (size_t)first;
    tile.resize(form == Form::Floats ? 0 : (size_t)(kMostTokens * hidden));
    float* rows = form == Form::Floats ? (float*)to : tile.data();
    for (int64_t i = 0; i < count; i++) {
      std::memcpy(rows + i * hidden, run.row(e.x, plan.row_at[(size_t)(first + i)]), sizeof(float) * (size_t)hidden);
    }
    if (form != Form::Floats) quantize_tile(run, form, rows, hidden, count, to);
  });
  const uint8_t* x = work.inputs.data();
  work.products.clear();
  if (e.w.gate) add_products(work, *e.w.gate, e.w.gate_bias, x, x_bytes, work.gate.data());
  add_products(work, up, e.w.up_bias, x, x_bytes, work.up.data());
  run_products(run, work.products.data(), work.products.size());
  each_tile(run, plan, [&](int64_t first, int64_t count) {
    float* u = work.up.data() + first * width;
    const Kernels& k = run.context.kernels;
    for (int64_t i = 0; i < count; i++, u += width) {
      if (e.w.gate) {
        k.gate[e.activation](work.gate.data() + (first + i) * width, u, width, u);
      } else {
        k.activate[e.activation](u, width, u);
      }
    }
    if (inner_form != Form::Floats) {
      quantize_tile(run, inner_form, work.up.data() + first * width, width, count, work.inner.data() + inner_bytes * (size_t)first);
    }
  });
  const uint8_t* inner = inner_form == Form::Floats ? (const uint8_t*)work.up.data() : work.inner.data();
  work.products.clear();
  add_products(work, down, e.w.down_bias, inner, inner_bytes, work.down.data());
  run_products(run, work.products.data(), work.products.size());
  // Summed in the order of choice, whatever the experts' order was.
  run.threads.run((run.step.count + plan.tile - 1) / plan.tile, [&](int64_t index, int) {
    for (int64_t r = index * plan.tile; r < std::min(run.step.count, (index + 1) * plan.tile); r++) {
      float* y = run.row(e.y, r);
      std::fill(y, y + hidden, 0.0f);
      for (int64_t i = r * e.router.active; i < (r + 1) * e.router.active; i++) {
        run.context.kernels.add(y, 1.0f, work.down.data() + plan.place[(size_t)i] * hidden, choices[i].weight, hidden, y);
      }
    }
  });
}

}  // namespace

int record_experts(Tape& tape, int x, int logits, const ExpertWeights& w, const RouterShape& router, int activation,
                   VectorPointer correction, VectorPointer scale) {
  int choices = tape.value(Rows::All, sizeof(Choice) * (size_t)router.active), y = tape.floats(Rows::All, w.down->rows);
  int64_t experts = tape.width_of(logits);
  tape.add_rows(Rows::All, {logits}, {choices}, [=](const Run& run, int64_t first, int64_t last) {
    for (int64_t r = first; r < last; r++) {
      route(run.row(logits, r), experts, router, correction ? correction->data() : nullptr, scale ? scale->data() : nullptr,
            run.row<Choice>(choices, r));
    }
  });
  if (!tape.expert_workspace) tape.expert_workspace = std::make_shared<Workspace>();
  auto work = std::static_pointer_cast<Workspace>(tape.expert_workspace);
  Experts mixture{x, choices, y, w, router, activation};
  tape.add_whole({x, choices}, {y}, [=](const Run& run) { run_experts(run, mixture, *work); });
  return y;
}

}  // namespace linnet
