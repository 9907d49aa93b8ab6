#include "quantize.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace linnet {

namespace {

// The largest magnitude that a type holds: its largest float16 scale (MXFP4: power of two) times its largest integers.
float limit_of(Type type) {
  constexpr float half = 65504;
  switch (type) {
    case Type::F16:
      return half;
    case Type::Q4_0:
    case Type::Q4_1:
      return half * 8;
    case Type::Q5_0:
    case Type::Q5_1:
      return half * 16;
    case Type::Q8_0:
    case Type::IQ4_NL:
      return half * 127;
    case Type::Q2_K:
      return half * 15;
    case Type::Q3_K:
      return half * 4 * 32;
    case Type::Q4_K:
    case Type::Q5_K:
      return half * 63;
    case Type::Q6_K:
      return half * 32 * 128;
    case Type::IQ4_XS:
      return half * 127 * 32;
    case Type::BF16:
      return 3.3895e38f;
    default:
      return std::numeric_limits<float>::max();
  }
}

// Columns that calibration saw idle count for a little: what it did not see may come.
std::vector<float> above_zero(const float* importance, int64_t columns) {
  double sum = 0;
  for (int64_t k = 0; k < columns; k++) sum += importance[k];
  double mean = sum / (double)columns, unit = mean > 0 ? 1 / mean : 0;  // about one: sums of them neither overflow nor vanish
  std::vector<float> raised((size_t)columns);
  for (int64_t k = 0; k < columns; k++) raised[(size_t)k] = (float)(importance[k] * unit + (mean > 0 ? 1e-4 : 1));
  return raised;
}

// What a thread needs for sixteen rows.
struct Workspace {
  std::vector<uint8_t> group;
  std::vector<float> values, weights;
};

class Job {
 public:
  Job(const Kernels& k, const uint8_t* raw, const Format& stored, const Format& target, int64_t rows, int64_t columns,
      const float* importance, uint8_t* out)
      : kernels_(k), raw_(raw), stored_(stored), target_(target), rows_(rows), columns_(columns), importance_(importance), out_(out) {}

  void run(ThreadPool& threads) {
    std::vector<Workspace> spaces((size_t)threads.size());
    threads.run((rows_ + kRows - 1) / kRows, [&](int64_t g, int thread) { encode_group(g * kRows, spaces[(size_t)thread]); });
    if (bad_ < rows_) throw std::domain_error(complaint(spaces[0]));
  }

 private:
  int64_t blocks() const { return columns_ / stored_.block; }
  const uint8_t* raw_row(int64_t r) const { return raw_ + (size_t)(r * blocks()) * stored_.raw_bytes; }

  // Rows from `first` on as float32, one after another in `values`.
  int read_group(int64_t first, Workspace& space) const {
    int count = (int)(rows_ - first < kRows ? rows_ - first : kRows);
    space.values.resize((size_t)(columns_ * kRows));
    const uint8_t* rows[kRows] = {};
    for (int r = 0; r < count; r++) rows[r] = raw_row(first + r);
    if (stored_.packed_bytes) {
      space.group.resize((size_t)blocks() * stored_.packed_bytes);
      stored_.pack(rows, blocks(), space.group.data());
    }
    for (int r = 0; r < count; r++) {
      float* x = space.values.data() + r * columns_;
      if (stored_.type == Type::F16) {
        kernels_.widen_f16(rows[r], columns_, x);
      } else if (stored_.type == Type::BF16) {
        kernels_.widen_bf16(rows[r], columns_, x);
      } else {
        stored_.to_floats(stored_.packed_bytes ? space.group.data() : rows[r], r, blocks(), x);
      }
    }
    return count;
  }

  void encode_group(int64_t first, Workspace& space) {
    if (first > bad_) return;
    int count = read_group(first, space);
    size_t row_bytes = (size_t)(columns_ / target_.block) * target_.raw_bytes;
    bool same = stored_.type == target_.type;
    space.weights.resize((size_t)columns_);
    for (int r = 0; r < count; r++) {
      const float* x = space.values.data() + r * columns_;
      uint8_t* to = out_ + (size_t)(first + r) * row_bytes;
      if (!(kernels_.extent(x, columns_) <= limit_of(target_.type))) return mark_bad(first + r);
      if (same) {
        std::memcpy(to, raw_row(first + r), row_bytes);
        continue;
      }
      if (target_.block > 1) kernels_.weigh(x, importance_, columns_, space.weights.data());
      kernels_.encode[(int)target_.type](x, space.weights.data(), columns_, to);
    }
  }

  void mark_bad(int64_t row) {
    for (int64_t least = bad_; row < least && !bad_.compare_exchange_weak(least, row);) {
    }
  }

  // The first row that cannot be encoded is the same whichever thread met it: rows before it have all been done.
  std::string complaint(Workspace& space) const {
    int64_t first = bad_ / kRows * kRows;
    read_group(first, space);
    float extent = kernels_.extent(space.values.data() + (bad_ - first) * columns_, columns_);
    std::string row = "row " + std::to_string(bad_);
    if (!std::isfinite(extent)) return row + " holds a value that is not finite";
    char sizes[80];
    std::snprintf(sizes, sizeof sizes, " holds %g, more than the %g that the type can", extent, limit_of(target_.type));
    return row + sizes;
  }

  const Kernels& kernels_;
  const uint8_t* raw_;
  const Format &stored_, &target_;
  int64_t rows_, columns_;
  const float* importance_;
  uint8_t* out_;
  std::atomic<int64_t> bad_{std::numeric_limits<int64_t>::max()};
};

}  // namespace

void quantize_rows(const Kernels& kernels, ThreadPool& threads, const uint8_t* raw, const Format& stored, const Format& target,
                   int64_t rows, int64_t columns, const float* importance, uint8_t* out) {
  std::vector<float> raised = importance ? above_zero(importance, columns) : std::vector<float>();
  Job(kernels, raw, stored, target, rows, columns, importance ? raised.data() : nullptr, out).run(threads);
}

}  // namespace linnet
