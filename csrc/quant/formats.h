// Weight formats outside the kernels: raw rows to packed groups, packed groups to floats. (csrc/quantize makes raw rows.)
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
  // Values of row `row` of a packed group (or of a raw row, for floats): float32 [blocks * block].
  void (*to_floats)(const void* group, int row, int64_t blocks, float* out);
};

// The format of a GGUF type id; null for types without kernels.
const Format* format_of(int gguf_id);

float half_value(uint16_t h);

extern const Format kF32, kF16, kBF16;                                   // floats.cc
extern const Format kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kIQ4_NL, kMXFP4;  // blocks.cc
extern const Format kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_XS;          // superblocks.cc

}  // namespace linnet
