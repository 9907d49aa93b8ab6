// Weight formats outside the kernels: raw rows to packed groups, packed groups to floats, floats to raw rows.
#pragma once
#include <cstddef>
#include <cstdint>

#include "packed.h"

namespace linnet {

struct Format {
  Type type;
  int block;            // columns per block (1 for floats)
  size_t raw_bytes;     // per block of one row
  size_t packed_bytes;  // per block of sixteen rows; 0: used row-major as stored
  // Packs `blocks` blocks of sixteen rows; rows[i] is null for rows past the end, which become zeros.
  void (*pack)(const uint8_t* const rows[kRows], int64_t blocks, void* packed);
  // Values of row `lane` of a packed group (or of a raw row, for floats): float32 [blocks * block].
  void (*to_floats)(const void* group, int lane, int64_t blocks, float* out);
  // Encodes a row of floats as raw blocks, as ggml's reference quantizers do; null where not offered.
  void (*from_floats)(const float* x, int64_t blocks, uint8_t* raw);
};

// The format of a GGUF type id; null for types without kernels.
const Format* format_of(int gguf_id);

float half_value(uint16_t h);
uint16_t half_bits(float f);

}  // namespace linnet
