#include "formats.h"

#define LINNET_ISA formats
#include "../kernels/simd.h"  // the half conversions

namespace linnet {

float half_value(uint16_t h) { return formats::half_to_float(h); }

const Format* format_of(int gguf_id) {
  static const Format* const formats[] = {&kF32,    &kF16,   &kBF16, &kQ4_0, &kQ4_1, &kQ5_0, &kQ5_1, &kQ8_0,
                                          &kIQ4_NL, &kMXFP4, &kQ2_K, &kQ3_K, &kQ4_K, &kQ5_K, &kQ6_K, &kIQ4_XS};
  for (const Format* f : formats) {
    if ((int)f->type == gguf_id) return f;
  }
  return nullptr;
}

}  // namespace linnet
