// Row-major floats: F32, F16, BF16. Kernels read them as stored.
#include <cstring>

#include "formats.h"

namespace linnet {

namespace {

void f32_to_floats(const void* row, int, int64_t count, float* out) { std::memcpy(out, row, 4 * (size_t)count); }
void f32_from_floats(const float* x, int64_t count, uint8_t* raw) { std::memcpy(raw, x, 4 * (size_t)count); }

void f16_to_floats(const void* row, int, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h;
    std::memcpy(&h, (const uint8_t*)row + 2 * i, 2);
    out[i] = half_value(h);
  }
}
void f16_from_floats(const float* x, int64_t count, uint8_t* raw) {
  for (int64_t i = 0; i < count; i++) {
    uint16_t h = half_bits(x[i]);
    std::memcpy(raw + 2 * i, &h, 2);
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
void bf16_from_floats(const float* x, int64_t count, uint8_t* raw) {
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    std::memcpy(&bits, &x[i], 4);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    uint16_t h = (uint16_t)(nan ? (bits >> 16) | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // ties to even
    std::memcpy(raw + 2 * i, &h, 2);
  }
}

}  // namespace

const Format kF32{Type::F32, 1, 4, 0, nullptr, f32_to_floats, f32_from_floats};
const Format kF16{Type::F16, 1, 2, 0, nullptr, f16_to_floats, f16_from_floats};
const Format kBF16{Type::BF16, 1, 2, 0, nullptr, bf16_to_floats, bf16_from_floats};

}  // namespace linnet
