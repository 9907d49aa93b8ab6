// Weights into packed groups, and products with them, shared out over the threads by rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "context.h"

namespace linnet {

namespace {

constexpr int64_t kTaskBytes = 96 << 10;  // weights of one task: stays in L2 while every token tile passes over it
constexpr int64_t kTaskTokens = 128;      // tokens of one task, so that narrow matrices still feed many threads

Kernels::FloatLinear float_kernel(const Kernels& k, Type type) {
  return type == Type::F32 ? k.linear_f32 : type == Type::F16 ? k.linear_f16 : k.linear_bf16;
}

// Quantized rows of x in tiles of kernels.tile_tokens, made once per tensor and kind.
const uint8_t* quantized(Context& c, Tensor& x, bool super_blocks) {
  std::shared_ptr<Buffer>& kept = super_blocks ? x.q8_k : x.q8_0;
  if (!kept) {
    size_t token_bytes =
        super_blocks ? sizeof(ActivationQ8_K<1>) * (size_t)(x.width / 256) : sizeof(ActivationQ8_0<1>) * (size_t)(x.width / 32);
    auto made = std::make_shared<Buffer>(c.buffers, token_bytes * (size_t)x.rows);
    int tile = c.kernels.tile_tokens;
    auto quantize = super_blocks ? c.kernels.quantize_q8_k : c.kernels.quantize_q8_0;
    c.threads.run((x.rows + tile - 1) / tile, [&](int64_t i, int) {
      int64_t first = i * tile;
      quantize(x.row(first), x.width, (int)std::min<int64_t>(tile, x.rows - first), (uint8_t*)made->data() + token_bytes * (size_t)first);
    });
    kept = made;
  }
  return (const uint8_t*)kept->data();
}

void add_bias(float* y, int64_t tokens, int64_t stride, int64_t rows, const float* bias) {
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t r = 0; r < rows; r++) y[t * stride + r] += bias[r];
  }
}

void block_linear(Context& c, Tensor& x, const Matrix& w, const float* bias, Tensor& y) {
  bool super_blocks = w.format.block == 256;
  const uint8_t* activations = quantized(c, x, super_blocks);
  size_t token_bytes = (size_t)w.blocks() * (super_blocks ? sizeof(ActivationQ8_K<1>) : sizeof(ActivationQ8_0<1>));
  auto kernel = c.kernels.block_linear[(int)w.format.type];
  int tile = c.kernels.tile_tokens, tile_groups = x.rows == 1 ? 1 : c.kernels.tile_groups;
  int64_t tile_bytes = w.blocks() * (int64_t)w.format.packed_bytes * tile_groups, all = (w.rows + kRows - 1) / kRows;
  int64_t step = std::max<int64_t>(1, kTaskBytes / tile_bytes) * tile_groups;
  int64_t row_tasks = (all + step - 1) / step, token_tasks = (x.rows + kTaskTokens - 1) / kTaskTokens;
  c.threads.run(row_tasks * token_tasks, [&](int64_t task, int) {
    int64_t first = task % row_tasks * step, last = std::min(all, first + step);
    int64_t token_end = std::min(x.rows, (task / row_tasks + 1) * kTaskTokens);
    for (int64_t t = task / row_tasks * kTaskTokens; t < token_end; t += tile) {
      int tokens = (int)std::min<int64_t>(tile, token_end - t);
      for (int64_t g = first; g < last; g += tile_groups) {
        int groups = (int)std::min<int64_t>(tile_groups, last - g);
        int64_t row = g * kRows, rows = std::min<int64_t>(kRows * groups, w.rows - row);
        float *out = y.row(t) + row, partial[kMostTokens * kMostGroups * kRows];
        bool whole = rows == kRows * groups;
        int64_t stride = whole ? y.width : kRows * groups;
        kernel(w.group(g), w.blocks(), groups, activations + token_bytes * (size_t)t, tokens, whole ? out : partial, stride);
        for (int i = 0; !whole && i < tokens; i++) std::copy(partial + i * stride, partial + i * stride + rows, out + i * y.width);
        if (bias) add_bias(out, tokens, y.width, rows, bias + row);
      }
    }
  });
}

void float_linear(Context& c, const Tensor& x, const Matrix& w, const float* bias, Tensor& y) {
  auto kernel = float_kernel(c.kernels, w.format.type);
  int tile = c.kernels.float_tile_tokens;
  int64_t row_bytes = w.columns * (int64_t)w.format.raw_bytes;
  int64_t step = std::clamp<int64_t>(2 * kTaskBytes / row_bytes, 8, 64) / 8 * 8;
  int64_t row_tasks = (w.rows + step - 1) / step, token_tasks = (x.rows + kTaskTokens - 1) / kTaskTokens;
  c.threads.run(row_tasks * token_tasks, [&](int64_t task, int) {
    int64_t row = task % row_tasks * step, rows = std::min(step, w.rows - row);
    int64_t token_end = std::min(x.rows, (task / row_tasks + 1) * kTaskTokens);
    for (int64_t t = task / row_tasks * kTaskTokens; t < token_end; t += tile) {
      int tokens = (int)std::min<int64_t>(tile, token_end - t);
      kernel(w.raw_row(row), (int)rows, w.columns, x.row(t), tokens, y.row(t) + row, y.width);
      if (bias) add_bias(y.row(t) + row, tokens, y.width, rows, bias + row);
    }
  });
}

// Re-encodes sixteen rows: stored blocks to floats to raw blocks of the target.
void reencode(const Format& stored, const Format& target, const uint8_t* const rows[kRows], int64_t columns, std::vector<uint8_t>& group,
              std::vector<float>& values, std::vector<uint8_t>& raw) {
  int64_t blocks = columns / stored.block, target_blocks = columns / target.block;
  size_t raw_row = (size_t)target_blocks * target.raw_bytes;
  group.resize((size_t)blocks * stored.packed_bytes);
  values.resize((size_t)columns);
  raw.resize(raw_row * kRows);
  if (stored.packed_bytes) stored.pack(rows, blocks, group.data());
  for (int r = 0; r < kRows && rows[r]; r++) {
    stored.to_floats(stored.packed_bytes ? group.data() : rows[r], r, blocks, values.data());
    // Rounding to levels would make an ordinary number of it.
    for (float v : values) {
      if (!std::isfinite(v)) throw std::domain_error("holds a value that is not finite");
    }
    target.from_floats(values.data(), target_blocks, raw.data() + raw_row * (size_t)r);
  }
}

}  // namespace

std::shared_ptr<Matrix> make_matrix(Context& c, const uint8_t* raw, const Format& stored, const Format& target, int64_t rows,
                                    int64_t columns) {
  bool same = stored.type == target.type;
  if (same && !target.packed_bytes) return std::make_shared<Matrix>(target, rows, columns, raw, 0);
  int64_t groups = (rows + kRows - 1) / kRows, blocks = columns / target.block;
  size_t stored_row = (size_t)(columns / stored.block) * stored.raw_bytes, target_row = (size_t)blocks * target.raw_bytes;
  size_t bytes = target.packed_bytes ? (size_t)(groups * blocks) * target.packed_bytes : target_row * (size_t)rows;
  uint8_t* data = (uint8_t*)allocate_pages(bytes);
  auto matrix = std::make_shared<Matrix>(target, rows, columns, data, bytes);
  c.threads.run(groups, [&](int64_t g, int) {
    const uint8_t* row[kRows];
    for (int r = 0; r < kRows; r++) row[r] = g * kRows + r < rows ? raw + stored_row * (size_t)(g * kRows + r) : nullptr;
    std::vector<uint8_t> group, encoded;
    std::vector<float> values;
    if (!same) {
      reencode(stored, target, row, columns, group, values, encoded);
      for (int r = 0; r < kRows; r++) row[r] = row[r] ? encoded.data() + target_row * (size_t)r : nullptr;
    }
    if (target.packed_bytes) {
      target.pack(row, blocks, data + (size_t)(g * blocks) * target.packed_bytes);
    } else {
      for (int r = 0; r < kRows && row[r]; r++) std::memcpy(data + target_row * (size_t)(g * kRows + r), row[r], target_row);
    }
  });
  return matrix;
}

TensorPointer linear(Context& c, Tensor& x, const Matrix& w, const Tensor* bias) {
  auto y = c.tensor(x.rows, w.rows);
  const float* b = bias ? bias->data() : nullptr;
  if (w.format.packed_bytes) {
    block_linear(c, x, w, b, *y);
  } else {
    float_linear(c, x, w, b, *y);
  }
  return y;
}

TensorPointer embed(Context& c, const int32_t* tokens, int64_t count, const Matrix& table) {
  auto y = c.tensor(count, table.columns);
  c.threads.run(count, [&](int64_t i, int) { table.row_to_floats(tokens[i], y->row(i)); });
  return y;
}

}  // namespace linnet
