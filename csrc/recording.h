// A tape as Python records it, and the checks without which a batch could make it read or write what is not its own.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "ops/record.h"

namespace linnet {

// Throws std::invalid_argument, saying `what` is wrong.
void require(bool holds, const char* what);

// A tape, and what a batch must hold to for it to be safe.
struct Recording {
  std::shared_ptr<Context> context;
  Tape tape;
  int64_t most_tokens = std::numeric_limits<int64_t>::max(), most_positions = std::numeric_limits<int64_t>::max();
  int64_t most_rows = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> rotations;                       // floats of one sequence's frequencies, for those that a step gives
  std::vector<std::pair<size_t, Cache::Shape>> cached;  // layers of the cache that it reads and writes
  bool bidirectional = false;

  explicit Recording(std::shared_ptr<Context> c) : context(std::move(c)) {}
  int known(int value) const {
    require(value >= 0 && value < tape.size(), "a value that is not on the tape");
    return value;
  }
  // Requires values whose rows are the same ones.
  void beside(std::initializer_list<int> values) const {
    for (int v : values) require(tape.rows_of(known(v)) == tape.rows_of(known(*values.begin())), "rows of the batch beside rows wanted");
  }
  void of_batch(std::initializer_list<int> values) const {
    for (int v : values) require(tape.rows_of(known(v)) == Rows::All, "rows wanted where those of the batch should be");
  }
};

// Throw as `require` does: a cache that has not the layers which the tape reads, or of another shape; rows that reach outside the tape's
// constants, the page tables or the cache (null: there is none).
void check_cache(const Recording& recording, const Cache* cache);
void check_batch(const Recording& recording, const StepView& step, const Cache* cache);

}  // namespace linnet
