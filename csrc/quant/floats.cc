// Row-major floats: F32, F16, BF16. Kernels read them as stored.
#include <cstring>

#include "formats.h"

namespace linnet {

namespace {

void f32_to_floats(const void* row, int, int64_t count, float* out) { std::memcpy(out, row, 4 * (size_t)count); }

void f16_to_floats(const void* row, int, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h;
    std::memcpy(&h, (const uint8_t*)row + 2 * i, 2);
    out[i] = half_value(h);
  }
}

void bf16_to_floats(const void* row, int, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h;
    std::memcpy(&h, (const uint8_t*)row + 2 * i, 2);
    uint32_t bits = (uint32_t)h << 16;
    std::memcpy(&out[i], &bits, 4);
  }
}

}  // namespace

const Format kF32{Type::F32, 1, 4, 0, nullptr, f32_to_floats};
const Format kF16{Type::F16, 1, 2, 0, nullptr, f16_to_floats};
const Format kBF16{Type::BF16, 1, 2, 0, nullptr, bf16_to_floats};

}  // namespace linnet
