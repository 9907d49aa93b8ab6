#include "quantize.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>

namespace linnet {

namespace {

// The largest magnitude that a type holds: its largest float16 scale (MXFP4: power of two) times its largest integers, or where a
// block has a smallest value, that.
float limit_of(Type type) {
  constexpr float half = 65504;
  switch (type) {
    case Type::F16:
    case Type::Q4_1:
    case Type::Q5_1:
      return half;
    case Type::Q4_0:
      return half * 8;
    case Type::Q5_0:
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

}  // namespace

Encoder::Encoder(const Kernels& kernels, const Format& stored, const Format& target, int64_t columns, const float* importance)
    : kernels_(kernels), stored_(stored), target_(target), columns_(columns) {
  if (importance) importance_ = above_zero(importance, columns);
}

void Encoder::encode(const uint8_t* const rows[kRows], int64_t number, Workspace& space, uint8_t* out) const {
  space.values.resize((size_t)columns_);
  space.weights.resize((size_t)columns_);
  if (stored_.packed_bytes) {
    space.group.resize((size_t)(columns_ / stored_.block) * stored_.packed_bytes);
    stored_.pack(rows, columns_ / stored_.block, space.group.data());
  }
  float *x = space.values.data(), *weights = space.weights.data();
  for (int r = 0; r < kRows && rows[r]; r++, out += target_row_bytes()) {
    read_row(rows[r], r, space, x);
    float extent = kernels_.extent(x, columns_);
    if (!(extent <= limit_of(target_.type))) throw std::domain_error(complaint(number + r, extent));
    if (stored_.type == target_.type) {
      std::memcpy(out, rows[r], target_row_bytes());
      continue;
    }
    if (target_.block > 1) kernels_.weigh(x, importance_.empty() ? nullptr : importance_.data(), columns_, weights);
    kernels_.encode[(int)target_.type](x, weights, columns_, out);
  }
}

// Row `place` of those whose blocks are packed in the workspace, or a row of floats, as float32.
void Encoder::read_row(const uint8_t* row, int place, const Workspace& space, float* values) const {
  if (stored_.type == Type::F16) {
    kernels_.widen_f16(row, columns_, values);
  } else if (stored_.type == Type::BF16) {
    kernels_.widen_bf16(row, columns_, values);
  } else {
    stored_.to_floats(stored_.packed_bytes ? space.group.data() : row, place, columns_ / stored_.block, values);
  }
}

std::string Encoder::complaint(int64_t number, float extent) const {
  std::string row = "row " + std::to_string(number);
  if (!std::isfinite(extent)) return row + " holds a value that is not finite";
  char sizes[80];
  std::snprintf(sizes, sizeof sizes, " holds %g, more than the %g that the type can", extent, limit_of(target_.type));
  return row + sizes;
}

void quantize_rows(const Encoder& encoder, ThreadPool& threads, const uint8_t* raw, int64_t rows, uint8_t* out) {
  std::vector<Encoder::Workspace> spaces((size_t)threads.size());
  std::mutex mutex;
  std::atomic<int64_t> bad{rows};  // the first group's row that could not be encoded, whichever thread met it: those before it have been
  std::string complaint;
  threads.run((rows + kRows - 1) / kRows, [&](int64_t g, int thread) {
    int64_t first = g * kRows;
    if (first > bad) return;
    const uint8_t* group[kRows] = {};
    for (int r = 0; r < kRows && first + r < rows; r++) group[r] = raw + (size_t)(first + r) * encoder.stored_row_bytes();
    try {
      encoder.encode(group, first, spaces[(size_t)thread], out + (size_t)first * encoder.target_row_bytes());
    } catch (const std::domain_error& error) {
      std::lock_guard<std::mutex> lock(mutex);
      if (first < bad) {
        bad = first;
        complaint = error.what();
      }
    }
  });
  if (!complaint.empty()) throw std::domain_error(complaint);
}

}  // namespace linnet
