// A model's forward, recorded once and replayed for every batch.
//
// Recording gives each result a value: rows that are those of the batch, or those it wants logits of, of a fixed width. Work
// comes in two kinds. Row work computes each row from that row of other values alone; all row work that stands together is one
// task, shared out by a few rows at a time, and passes a row through every one of its steps while it is in cache. Whole work
// (products with weights, attention, experts) needs its inputs complete and shares itself out. What a value is stored in is
// reused once nothing reads it any more. Nothing here depends on the number of rows, so one tape serves prompts, decoding and
// steps of both.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "context.h"

namespace linnet {

enum class Rows { All, Wanted };

// A tape while it runs: where its values are.
struct Run {
  Context& context;
  ThreadPool& threads;
  Cache* cache;
  const StepView& step;
  const std::vector<uint8_t*>& places;  // of each value
  const std::vector<size_t>& widths;    // bytes of a row of each value

  template <class T = float>
  T* row(int value, int64_t r = 0) const {
    return (T*)(places[(size_t)value] + widths[(size_t)value] * (size_t)r);
  }
  int64_t count(Rows rows) const { return rows == Rows::All ? step.count : step.wanted; }
};

class Tape {
 public:
  using RowWork = std::function<void(const Run&, int64_t first, int64_t last)>;  // rows [first, last)
  using WholeWork = std::function<void(const Run&)>;

  // A value with `row_bytes` bytes a row; made by the work that is added next.
  int value(Rows rows, size_t row_bytes);
  int floats(Rows rows, int64_t width) { return value(rows, sizeof(float) * (size_t)width); }
  int size() const { return (int)values_.size(); }
  Rows rows_of(int value) const { return values_[(size_t)value].rows; }
  int64_t width_of(int value) const { return (int64_t)(values_[(size_t)value].row_bytes / sizeof(float)); }

  // reads: the values that the work reads; writes: those it makes (they were made by `value`).
  void add_rows(Rows rows, std::vector<int> reads, std::vector<int> writes, RowWork work);
  void add_whole(std::vector<int> reads, std::vector<int> writes, WholeWork work);
  // Whole work over one input may take more of the kind as long as it is the last: what it was kept open with, or null.
  std::shared_ptr<void> open(int input) const { return input == open_input_ ? open_ : nullptr; }
  void keep_open(int input, std::shared_ptr<void> with) { open_input_ = input, open_ = std::move(with); }
  void also(std::vector<int> writes);  // the last work makes these values, too

  // Runs everything and leaves the value `result` in `out`. One run at a time. Where it throws, the tape can run again.
  void run(Context&, Cache*, const StepView&, int result, float* out);

  // What mixtures of experts compute in between: one for all, since they run one after another.
  std::shared_ptr<void> expert_workspace;
  // Forms of a value that are made once: keyed by value and kind.
  std::map<std::pair<int, int>, int> forms;

 private:
  struct Value {
    Rows rows;
    size_t row_bytes;
    int first = -1, last = -1;  // the tasks that make it and that read it last
    int slot = -1;
  };
  struct Task {
    Rows rows = Rows::All;
    std::vector<RowWork> row_work;  // empty: whole work
    WholeWork whole;
  };
  void used(const std::vector<int>& reads, const std::vector<int>& writes);
  void place(int result);
  void lay_out(Context&, const StepView&);

  std::vector<Value> values_;
  std::vector<Task> tasks_;
  std::vector<std::pair<size_t, size_t>> slots_;  // bytes a row: over all rows, over wanted rows
  std::vector<size_t> widths_;
  int result_ = -1;  // what the places were given for: it needs none
  int open_input_ = -1;
  std::shared_ptr<void> open_;
  std::vector<uint8_t*> places_;
  std::pair<int64_t, int64_t> laid_out_{-1, -1};  // for so many rows, and rows wanted
  std::unique_ptr<Buffer> memory_;
};

}  // namespace linnet
