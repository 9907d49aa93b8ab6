// Weights into packed groups, shared out over the threads.
#include <cstring>

#include "../quantize/quantize.h"
#include "context.h"

namespace linnet {

namespace {

// Floats, and blocks that are not to be packed, stay where they are if they are as wanted and lie one after another.
bool can_stay(const std::vector<const uint8_t*>& raw, const Format& stored, const Format& target, int64_t rows, int64_t columns,
              bool pack) {
  if (stored.type != target.type || (target.packed_bytes && pack)) return false;
  size_t bytes = (size_t)(columns / stored.block) * stored.raw_bytes * (size_t)rows;
  for (size_t e = 1; e < raw.size(); e++) {
    if (raw[e] != raw[0] + bytes * e) return false;
  }
  return true;
}

}  // namespace

void Matrix::pack_group(int64_t expert, int64_t g, uint8_t* to) const {
  const uint8_t* row[kRows];
  for (int r = 0; r < kRows; r++) row[r] = g * kRows + r < rows ? raw_row(expert, g * kRows + r) : nullptr;
  format.pack(row, blocks(), to);
}

void Matrix::row_to_floats(int64_t r, float* out) const {
  if (!format.packed_bytes) return format.to_floats(raw_row(0, r), 0, blocks(), out);
  if (packed) return format.to_floats(group(0, r / kRows), (int)(r % kRows), blocks(), out);
  std::vector<uint8_t> one(group_bytes());
  const uint8_t* row[kRows] = {raw_row(0, r)};
  format.pack(row, blocks(), one.data());
  format.to_floats(one.data(), 0, blocks(), out);
}

std::shared_ptr<Matrix> make_matrix(Context& c, const std::vector<const uint8_t*>& raw, const Format& stored, const Format& target,
                                    int64_t rows, int64_t columns, bool pack) {
  int64_t experts = (int64_t)raw.size();
  if (can_stay(raw, stored, target, rows, columns, pack)) {
    return std::make_shared<Matrix>(target, experts, rows, columns, raw[0], 0, false);
  }
  bool packs = target.packed_bytes && pack;
  int64_t groups = (rows + kRows - 1) / kRows, blocks = columns / target.block;
  size_t stored_row = (size_t)(columns / stored.block) * stored.raw_bytes, target_row = (size_t)blocks * target.raw_bytes;
  size_t group_bytes = (size_t)blocks * target.packed_bytes;
  size_t bytes = (size_t)experts * (packs ? (size_t)groups * group_bytes : target_row * (size_t)rows);
  uint8_t* data = (uint8_t*)allocate_pages(bytes);
  auto matrix = std::make_shared<Matrix>(target, experts, rows, columns, data, bytes, packs);
  Encoder encoder(c.kernels, stored, target, columns);
  c.decode.run(experts * groups, [&](int64_t index, int) {
    int64_t expert = index / groups, g = index % groups;
    const uint8_t* row[kRows];
    for (int r = 0; r < kRows; r++) {
      row[r] = g * kRows + r < rows ? raw[(size_t)expert] + stored_row * (size_t)(g * kRows + r) : nullptr;
    }
    static thread_local std::vector<uint8_t> encoded;
    static thread_local Encoder::Workspace space;
    if (stored.type != target.type) {
      encoded.resize(target_row * kRows);
      encoder.encode(row, g * kRows, space, encoded.data());
      for (int r = 0; r < kRows; r++) row[r] = row[r] ? encoded.data() + target_row * (size_t)r : nullptr;
    }
    if (packs) {
      target.pack(row, blocks, data + (size_t)index * group_bytes);
      return;
    }
    uint8_t* to = data + (size_t)(expert * rows + g * kRows) * target_row;
    for (int r = 0; r < kRows && row[r]; r++) std::memcpy(to + target_row * (size_t)r, row[r], target_row);
  });
  return matrix;
}

}  // namespace linnet
