// Rows of one format as rows of another: how matrices are stored in a file, and how they are loaded as another type.
#pragma once
#include <string>
#include <vector>

#include "../core/threads.h"
#include "../kernels/kernels.h"
#include "../quant/formats.h"

namespace linnet {

class Encoder {
 public:
  // What a thread needs for sixteen rows.
  struct Workspace {
    std::vector<uint8_t> group;
    std::vector<float> values, weights;
  };

  // importance: weights of the columns' squared errors, or null, where all count the same. The formats must outlive the encoder.
  Encoder(const Kernels& kernels, const Format& stored, const Format& target, int64_t columns, const float* importance = nullptr);

  // Rows up to the first null, one after another into `out`. Throws std::domain_error naming the first (they are counted from
  // `number`) that holds a value which is not finite, or larger than the target can hold.
  void encode(const uint8_t* const rows[kRows], int64_t number, Workspace& space, uint8_t* out) const;

  size_t stored_row_bytes() const { return (size_t)(columns_ / stored_.block) * stored_.raw_bytes; }
  size_t target_row_bytes() const { return (size_t)(columns_ / target_.block) * target_.raw_bytes; }

 private:
  void read_row(const uint8_t* row, int place, const Workspace& space, float* values) const;
  std::string complaint(int64_t number, float extent) const;

  const Kernels& kernels_;
  const Format &stored_, &target_;
  int64_t columns_;
  std::vector<float> importance_;  // empty: none
};

// A matrix [rows, columns] as stored, its rows one after another in `raw`, into `out`, shared out over the threads: the same bytes for
// any number of them. Throws as Encoder::encode does, for the first of all such rows.
void quantize_rows(const Encoder& encoder, ThreadPool& threads, const uint8_t* raw, int64_t rows, uint8_t* out);

}  // namespace linnet
