#include "tape.h"

#include <algorithm>
#include <stdexcept>

namespace linnet {

namespace {

constexpr size_t kAlign = 64;

}  // namespace

int Tape::value(Rows rows, size_t row_bytes) {
  result_ = -1;
  values_.push_back({rows, row_bytes});
  widths_.push_back(row_bytes);
  return (int)values_.size() - 1;
}

void Tape::used(const std::vector<int>& reads, const std::vector<int>& writes) {
  int task = (int)tasks_.size() - 1;
  for (int v : reads) values_[(size_t)v].last = std::max(values_[(size_t)v].last, task);
  for (int v : writes) {
    Value& made = values_[(size_t)v];
    if (made.first < 0) made.first = task;
    made.last = std::max(made.last, task);
  }
}

void Tape::add_rows(Rows rows, std::vector<int> reads, std::vector<int> writes, RowWork work) {
  bool joins = !tasks_.empty() && !tasks_.back().row_work.empty() && tasks_.back().rows == rows;
  if (!joins) {
    tasks_.push_back({});
    tasks_.back().rows = rows;
  }
  tasks_.back().row_work.push_back(std::move(work));
  used(reads, writes);
  open_.reset();
}

void Tape::add_whole(std::vector<int> reads, std::vector<int> writes, WholeWork work) {
  tasks_.push_back({});
  tasks_.back().whole = std::move(work);
  used(reads, writes);
  open_.reset();
}

void Tape::also(std::vector<int> writes) { used({}, writes); }

// Gives every value a slot that no value alive at the same time has. A task counts as one moment: its threads may be at
// different rows, so what it reads last is not free for what it makes. The result stands in its caller's memory.
void Tape::place(int result) {
  slots_.clear();
  laid_out_ = {-1, -1};
  std::vector<int> free_from;  // of each slot: the first task that may write to it
  std::vector<int> order;
  for (int v = 0; v < (int)values_.size(); v++) {
    values_[(size_t)v].slot = -1;
    if (values_[(size_t)v].first >= 0 && v != result) order.push_back(v);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values_[(size_t)a].first < values_[(size_t)b].first; });
  for (int v : order) {
    Value& value = values_[(size_t)v];
    size_t best = slots_.size(), missing = SIZE_MAX;
    for (size_t s = 0; s < slots_.size(); s++) {  // the free slot that grows least
      if (free_from[s] > value.first) continue;
      size_t size = value.rows == Rows::All ? slots_[s].first : slots_[s].second;
      size_t lacks = value.row_bytes > size ? value.row_bytes - size : 0;
      if (lacks < missing) best = s, missing = lacks;
    }
    if (best == slots_.size()) {
      slots_.push_back({0, 0});
      free_from.push_back(0);
    }
    size_t& size = value.rows == Rows::All ? slots_[best].first : slots_[best].second;
    size = std::max(size, value.row_bytes);
    free_from[best] = value.last + 1;
    value.slot = (int)best;
  }
  result_ = result;
}

// Where everything is for a step of so many rows.
void Tape::lay_out(Context& context, const StepView& step) {
  size_t bytes = 0;
  std::vector<size_t> starts;
  for (auto [all, wanted] : slots_) {
    starts.push_back(bytes);
    bytes += (std::max(all * (size_t)step.count, wanted * (size_t)step.wanted) + kAlign - 1) / kAlign * kAlign;
  }
  laid_out_ = {-1, -1};  // should there be no memory
  if (!memory_ || bytes > memory_->bytes()) {
    memory_.reset();  // first: it may be of the same size class
    memory_ = std::make_unique<Buffer>(context.buffers, bytes);
  }
  places_.resize(values_.size());
  for (size_t v = 0; v < values_.size(); v++) {
    if (values_[v].slot >= 0) places_[v] = (uint8_t*)memory_->data() + starts[(size_t)values_[v].slot];
  }
  laid_out_ = {step.count, step.wanted};
}

void Tape::run(Context& context, Cache* cache, const StepView& step, int result, float* out) {
  if (result_ != result) place(result);
  if (laid_out_ != std::make_pair(step.count, step.wanted)) lay_out(context, step);
  places_[(size_t)result] = (uint8_t*)out;
  ThreadPool& threads = context.threads(step.for_prompt);
  Run run{context, threads, cache, step, places_, widths_};
  const int64_t tile = context.kernels.tile_tokens;  // rows that are quantized together are multiplied together
  for (const Task& task : tasks_) {
    if (task.row_work.empty()) {
      task.whole(run);
      continue;
    }
    int64_t count = run.count(task.rows), each = count > 4 * tile * threads.size() ? 2 * tile : tile;
    threads.run((count + each - 1) / each, [&](int64_t index, int) {
      int64_t first = index * each, last = std::min(count, first + each);
      for (int64_t r = first; r < last; r += tile) {
        for (const RowWork& work : task.row_work) work(run, r, std::min(last, r + tile));
      }
    });
  }
}

}  // namespace linnet
