// A layer with weights of every format, as a tape runs it, on each instruction set of the processor: rows together, alone and in
// pieces, on any number of threads, give the same bits, and what the plain kernels give. Built and run by test_kernel_driver.py under
// an emulator, where no Python is; natively test_tape.py and test_kernels.py hold the same and more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/ops/linear.h"
#include "../../csrc/ops/record.h"
#include "../../csrc/quantize/quantize.h"

using namespace linnet;

static constexpr int64_t kPositions = 101, kHidden = 256, kExperts = 5, kRowsMade = 61;
static constexpr int kHeads = 2, kHeadDim = 32;
static constexpr Cache::Shape kShape{1, kHeadDim, kHeadDim};

// Matrices of one format, of a few rows that come again and again: to encode more would take long under an emulator.
class Weights {
 public:
  Weights(Context& context, const Format& format) : context_(context), format_(format) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, 1.0f / 16);
    std::vector<float> values(kRowsMade * kHidden);
    for (float& v : values) v = normal(generator);
    Encoder encoder(context.kernels, kF32, format, kHidden);
    row_bytes_ = encoder.target_row_bytes();
    rows_.resize(row_bytes_ * kRowsMade);
    quantize_rows(encoder, context.decode, (const uint8_t*)values.data(), kRowsMade, rows_.data());
  }
  MatrixPointer matrix(int64_t experts, int64_t rows) {
    auto* raw = new std::vector<uint8_t>(row_bytes_ * (size_t)(experts * rows));  // read where they are by matrices of floats
    for (int64_t r = 0; r < experts * rows; r++, next_ = (next_ + 1) % kRowsMade) {
      std::memcpy(raw->data() + row_bytes_ * (size_t)r, rows_.data() + row_bytes_ * next_, row_bytes_);
    }
    std::vector<const uint8_t*> each;
    for (int64_t e = 0; e < experts; e++) each.push_back(raw->data() + row_bytes_ * (size_t)(e * rows));
    return make_matrix(context_, each, format_, format_, rows, kHidden, true);
  }

 private:
  Context& context_;
  const Format& format_;
  size_t row_bytes_, next_ = 0;
  std::vector<uint8_t> rows_;
};

// Records a layer whose attention is as wide as its input, and returns its output [rows, kHidden].
static int layer(Tape& tape, Weights& floats, Weights& weights) {
  int x = record_embed(tape, floats.matrix(1, kPositions), Source::Tokens, 0);
  int h = record_norm(tape, x, nullptr, nullptr, kRmsNorm, 1e-5f, 1);
  int q = record_linear(tape, h, weights.matrix(1, kHeads * kHeadDim), nullptr);
  int k = record_linear(tape, h, weights.matrix(1, kHeadDim), nullptr);
  int v = record_linear(tape, h, weights.matrix(1, kHeadDim), nullptr);
  int a = record_attend(tape, kShape, {0, kHeads, 0.2f, 0, 0, false}, q, k, v, nullptr, nullptr);
  for (int width = kHeads * kHeadDim; width < kHidden; width *= 2) a = record_append_shared(tape, a, a, 1);
  x = record_add(tape, x, record_linear(tape, a, weights.matrix(1, kHidden), nullptr), 1, 1);
  h = record_norm(tape, x, nullptr, nullptr, kRmsNorm, 1e-5f, 1);
  int logits = record_linear(tape, h, floats.matrix(1, kExperts), nullptr);
  ExpertWeights experts{
      weights.matrix(kExperts, kHidden), weights.matrix(kExperts, kHidden), weights.matrix(kExperts, kHidden), {}, {}, {}};
  return record_add(tape, x, record_experts(tape, h, logits, experts, {2, 0, true, 1.0f, 1, 1}, kSilu, nullptr, nullptr), 1, 1);
}

// The layer's outputs [kPositions, kHidden], computed in pieces of so many rows.
static std::vector<float> outputs(Tape& tape, int result, const std::string& isa, int threads, int64_t piece) {
  Context context(threads, threads, isa);
  Cache cache({kShape}, {0}, {4}, KvType::F16);
  const int32_t pages[4] = {3, 1, 0, 2}, prompt = 1;
  std::vector<int32_t> numbers(kPositions), zeros(kPositions, 0);
  for (int32_t i = 0; i < kPositions; i++) numbers[(size_t)i] = i;
  std::vector<float> all(kPositions * kHidden);
  for (int64_t first = 0; first < kPositions; first += piece) {
    int64_t count = std::min(piece, kPositions - first);
    const int32_t* at = numbers.data() + first;
    StepView step{count, 0, 1, 1, 4, at, at, zeros.data(), zeros.data(), pages, &prompt, nullptr, count > 1, {}};
    tape.run(context, &cache, step, result, all.data() + first * kHidden);
  }
  return all;
}

static bool holds(const Format& format) {
  Context best(1, 1, "");
  Weights floats(best, kF32), weights(best, format);
  Tape tape;
  int result = layer(tape, floats, weights);
  std::vector<float> plain = outputs(tape, result, "scalar", 1, kPositions);
  float most = 0;
  for (float v : plain) most = std::max(most, std::fabs(v));
  for (const std::string& isa : available_isas()) {
    std::vector<float> whole = outputs(tape, result, isa, 1, kPositions);
    for (size_t i = 0; i < whole.size(); i++) {
      if (std::fabs(whole[i] - plain[i]) <= 0.03f * most) continue;  // activations may round to neighbouring integers
      std::printf("type %d, %s: value %zu is %g, not %g\n", (int)format.type, isa.c_str(), i, (double)whole[i], (double)plain[i]);
      return false;
    }
    for (int64_t piece : {1, 5, 97}) {
      if (outputs(tape, result, isa, 3, piece) == whole) continue;
      std::printf("type %d, %s: other bits in pieces of %d\n", (int)format.type, isa.c_str(), (int)piece);
      return false;
    }
  }
  return true;
}

int main() {
  for (int id = 0; id < kTypes; id++) {
    if (format_of(id) && !holds(*format_of(id))) return 1;
  }
  std::puts("as the plain kernels have them");
}
