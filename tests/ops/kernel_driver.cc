// Every kernel of one instruction set (LINNET_DRIVEN) against the plain C++ ones, over every length up to two vectors and more,
// on addresses that are no multiple of a vector. Built and run by test_kernel_driver.py, for other processors under an emulator.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/kernels/kernels.h"

using namespace linnet;

namespace linnet {
namespace LINNET_DRIVEN {
const Kernels& table();
}
}  // namespace linnet

static const Kernels& ours = LINNET_DRIVEN::table();
static const Kernels& plain = scalar::table();
static std::mt19937 generator(1);
static long checked = 0;

static std::vector<float> random_floats(size_t count, float spread = 1.0f) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(count + 1);
  for (float& v : values) v = normal(generator);
  return values;
}

static uint16_t half_of(float positive) {  // a normal half, cut off
  uint32_t bits;
  std::memcpy(&bits, &positive, 4);
  return (uint16_t)((bits - 0x38000000u) >> 13);
}

// As far apart as roundings that add up in another way may be: relative to the largest that stands in the output.
static void same(const char* what, const float* a, const float* b, size_t count, double tolerance) {
  double most = 1e-30;
  for (size_t i = 0; i < count; i++) most = std::fmax(most, std::fabs((double)b[i]));
  for (size_t i = 0; i < count; i++, checked++) {
    if (!(std::fabs((double)a[i] - b[i]) <= tolerance * most)) {
      std::printf("%s: %s: value %zu of %zu is %.9g, not %.9g\n", ours.name, what, i, count, (double)a[i], (double)b[i]);
      std::exit(1);
    }
  }
}

static void same_bytes(const char* what, const void* a, const void* b, size_t count) {
  checked++;
  if (std::memcmp(a, b, count) != 0) {
    std::printf("%s: %s: other bytes\n", ours.name, what);
    std::exit(1);
  }
}

// Random bytes with scales that are finite.
template <class Block, class Scales>
static std::vector<uint8_t> random_blocks(int64_t count, Scales scales) {
  std::vector<uint8_t> bytes((size_t)count * sizeof(Block) + 1);
  for (uint8_t& b : bytes) b = (uint8_t)generator();
  for (int64_t i = 0; i < count; i++) {
    Block block;
    std::memcpy(&block, bytes.data() + 1 + (size_t)i * sizeof(Block), sizeof block);
    scales(block);
    std::memcpy(bytes.data() + 1 + (size_t)i * sizeof(Block), &block, sizeof block);
  }
  return bytes;
}

template <class Half>
static void fill(Half (&sixteen)[kRows]) {
  for (Half& h : sixteen) h = half_of(0.01f + (float)(generator() % 1000) / 1000.0f);
}

struct OfBlocks {
  static constexpr int kColumns = 32;
  static size_t bytes(int tokens) { return (size_t)tokens * sizeof(ActivationQ8_0<1>); }
  static void quantize(const Kernels& k, const float* x, int64_t columns, int tokens, void* tile) {
    k.quantize_q8_0(x, columns, tokens, tile);
  }
};
struct OfSuperBlocks {
  static constexpr int kColumns = 256;
  static size_t bytes(int tokens) { return (size_t)tokens * sizeof(ActivationQ8_K<1>); }
  static void quantize(const Kernels& k, const float* x, int64_t columns, int tokens, void* tile) {
    k.quantize_q8_k(x, columns, tokens, tile);
  }
};

template <class Activations, class Block, class Scales>
static void linear_blocks(Type type, const char* name, Scales scales) {
  int id = (int)type;
  for (int64_t count = 1; count <= 3; count++) {
    for (int groups = 1; groups <= ours.tile_groups; groups++) {
      for (int tokens = 1; tokens <= ours.tile_tokens; tokens++) {
        for (int extreme = 0; extreme < 2; extreme++) {
          std::vector<uint8_t> blocks = random_blocks<Block>(count * groups, scales);
          int64_t columns = count * Activations::kColumns;
          std::vector<float> x = random_floats((size_t)(columns * tokens));
          if (extreme) {
            for (float& v : x) v = v < 0 ? -1.0f : 1.0f;
          }
          std::vector<uint8_t> tile(Activations::bytes(tokens) * (size_t)count), one(Activations::bytes(1) * (size_t)count);
          Activations::quantize(ours, x.data() + 1, columns, tokens, tile.data());
          int stride = 16 * groups + 3;
          std::vector<float> y((size_t)(stride * tokens) + 1), expected(y.size());
          ours.block_linear[id](blocks.data() + 1, count, groups, tile.data(), tokens, y.data() + 1, stride);
          for (int t = 0; t < tokens; t++) {  // one by one: a tile of another instruction set may be smaller
            Activations::quantize(plain, x.data() + 1 + columns * t, columns, 1, one.data());
            for (int g = 0; g < groups; g++) {
              const uint8_t* group = blocks.data() + 1 + (size_t)(g * count) * sizeof(Block);
              plain.block_linear[id](group, count, 1, one.data(), 1, expected.data() + 1 + stride * t + 16 * g, stride);
            }
          }
          same(name, y.data(), expected.data(), y.size(), 2e-6);
        }
      }
    }
  }
}

static void every_block_type() {
  auto d = [](auto& block) { fill(block.d); };
  auto d_and_m = [](auto& block) { fill(block.d), fill(block.m); };
  auto d_and_min = [](auto& block) { fill(block.d), fill(block.dmin); };
  auto e = [](auto& block) {
    for (uint8_t& one : block.e) one = (uint8_t)(generator() % 20 ? 115 + generator() % 15 : generator() % 2);
  };
  linear_blocks<OfBlocks, PackedQ4_0>(Type::Q4_0, "Q4_0", d);
  linear_blocks<OfBlocks, PackedQ4_1>(Type::Q4_1, "Q4_1", d_and_m);
  linear_blocks<OfBlocks, PackedQ5_0>(Type::Q5_0, "Q5_0", d);
  linear_blocks<OfBlocks, PackedQ5_1>(Type::Q5_1, "Q5_1", d_and_m);
  linear_blocks<OfBlocks, PackedQ8_0>(Type::Q8_0, "Q8_0", d);
  linear_blocks<OfBlocks, PackedIQ4_NL>(Type::IQ4_NL, "IQ4_NL", d);
  linear_blocks<OfBlocks, PackedMXFP4>(Type::MXFP4, "MXFP4", e);
  linear_blocks<OfSuperBlocks, PackedQ2_K>(Type::Q2_K, "Q2_K", d_and_min);
  linear_blocks<OfSuperBlocks, PackedQ3_K>(Type::Q3_K, "Q3_K", d);
  linear_blocks<OfSuperBlocks, PackedQ4_K>(Type::Q4_K, "Q4_K", d_and_min);
  linear_blocks<OfSuperBlocks, PackedQ5_K>(Type::Q5_K, "Q5_K", d_and_min);
  linear_blocks<OfSuperBlocks, PackedQ6_K>(Type::Q6_K, "Q6_K", d);
  linear_blocks<OfSuperBlocks, PackedIQ4_XS>(Type::IQ4_XS, "IQ4_XS", d);
}

// What does not depend on the instruction set's form of offsets: integers and scales.
static void quantizing() {
  for (int spread = -3; spread <= 3; spread++) {
    std::vector<float> x = random_floats(256, std::pow(10.0f, (float)spread));
    ActivationQ8_0<1> a[8], b[8];
    ours.quantize_q8_0(x.data() + 1, 256, 1, a);
    plain.quantize_q8_0(x.data() + 1, 256, 1, b);
    for (int i = 0; i < 8; i++) same_bytes("quantize_q8_0", &a[i], &b[i], sizeof a[i].q + sizeof a[i].d + sizeof a[i].sum);
    ActivationQ8_K<1> c, e;
    ours.quantize_q8_k(x.data() + 1, 256, 1, &c);
    plain.quantize_q8_k(x.data() + 1, 256, 1, &e);
    same_bytes("quantize_q8_k", &c, &e, sizeof c.q + sizeof c.d);
    same_bytes("quantize_q8_k sums", &c.sum, &e.sum, sizeof c.sum + sizeof c.half_sum);
  }
}

static void linear_floats() {
  for (int64_t columns = 1; columns <= 49; columns++) {
    for (int tokens = 1; tokens <= ours.float_tile_tokens; tokens++) {
      constexpr int rows = 9, stride = 11;
      std::vector<float> w = random_floats((size_t)(rows * columns)), x = random_floats((size_t)(tokens * columns));
      std::vector<uint8_t> halves(2 * w.size() + 1), brains(2 * w.size() + 1);  // at odd addresses, as files may have them
      for (size_t i = 0; i < w.size(); i++) {
        uint16_t half = (uint16_t)(half_of(std::fabs(w[i]) + 1e-4f) | (w[i] < 0 ? 0x8000 : 0));
        std::memcpy(halves.data() + 1 + 2 * i, &half, 2);
        std::memcpy(brains.data() + 1 + 2 * i, (const char*)&w[i] + 2, 2);
      }
      const void* weights[] = {w.data() + 1, halves.data() + 1, brains.data() + 1};
      Kernels::FloatLinear a[] = {ours.linear_f32, ours.linear_f16, ours.linear_bf16};
      Kernels::FloatLinear b[] = {plain.linear_f32, plain.linear_f16, plain.linear_bf16};
      for (int type = 0; type < 3; type++) {
        std::vector<float> y((size_t)(stride * tokens)), expected(y.size());
        a[type](weights[type], rows, columns, x.data() + 1, tokens, y.data(), stride);
        for (int t = 0; t < tokens; t++)
          b[type](weights[type], rows, columns, x.data() + 1 + t * columns, 1, expected.data() + t * stride, stride);
        same("floats", y.data(), expected.data(), y.size(), 4e-6);
      }
    }
  }
}

static void row_wise() {
  for (int64_t width = 1; width <= 49; width++) {
    auto n = (size_t)width;
    std::vector<float> x = random_floats(n, 4.0f), u = random_floats(n), w = random_floats(n), y(n + 1), expected(n + 1);
    auto check = [&](const char* what, double tolerance) { same(what, y.data() + 1, expected.data() + 1, n, tolerance); };
    for (int kind : {kRmsNorm, kLayerNorm}) {
      for (const float* bias : {(const float*)nullptr, (const float*)u.data()}) {
        ours.norm(kind, x.data() + 1, w.data() + 1, bias, 1e-5f, width, y.data() + 1);
        plain.norm(kind, x.data() + 1, w.data() + 1, bias, 1e-5f, width, expected.data() + 1);
        check("norm", 1e-5);
      }
    }
    for (int id = 0; id < kActivations; id++) {
      if (plain.activate[id]) {
        ours.activate[id](x.data() + 1, width, y.data() + 1);
        plain.activate[id](x.data() + 1, width, expected.data() + 1);
        check("activate", 2e-6);
      }
      ours.gate[id](x.data() + 1, u.data() + 1, width, y.data() + 1);
      plain.gate[id](x.data() + 1, u.data() + 1, width, expected.data() + 1);
      check("gate", 2e-6);
    }
    ours.add(x.data() + 1, 0.5f, u.data() + 1, -3.0f, width, y.data() + 1);
    plain.add(x.data() + 1, 0.5f, u.data() + 1, -3.0f, width, expected.data() + 1);
    check("add", 1e-6);
    ours.scale(x.data() + 1, 0.3f, width, y.data() + 1);
    plain.scale(x.data() + 1, 0.3f, width, expected.data() + 1);
    check("scale", 0);
    ours.softcap(x.data() + 1, 5.0f, width, y.data() + 1);
    plain.softcap(x.data() + 1, 5.0f, width, expected.data() + 1);
    check("softcap", 2e-6);
    for (int dim = 2; dim <= width; dim += 2) {
      for (bool interleaved : {false, true}) {
        int start = (int)width - dim;
        ours.rotate(x.data() + 1, u.data() + 1, w.data() + 1, start, dim, (int)width, interleaved, y.data() + 1);
        plain.rotate(x.data() + 1, u.data() + 1, w.data() + 1, start, dim, (int)width, interleaved, expected.data() + 1);
        check("rotate", 1e-6);
      }
    }
  }
}

static void attention(KvType type, int head_dim, int value_dim, int rows, int64_t length, float softcap, float slope, float sink) {
  AttentionShape shape{head_dim, value_dim, 0.2f, softcap, type};
  int64_t pages = (length + kPage - 1) / kPage;
  size_t keys = key_bytes(shape), both = keys + value_bytes(shape);
  std::vector<uint8_t> cache(both * (size_t)pages), expected_cache(cache.size());
  for (int64_t i = 0; i < length; i++) {
    std::vector<float> k = random_floats((size_t)head_dim), v = random_floats((size_t)value_dim);
    size_t page = both * (size_t)(i / kPage);
    ours.store_kv(shape, k.data() + 1, v.data() + 1, (int)(i % kPage), &cache[page], &cache[page + keys]);
    plain.store_kv(shape, k.data() + 1, v.data() + 1, (int)(i % kPage), &expected_cache[page], &expected_cache[page + keys]);
  }
  same_bytes("store_kv", cache.data(), expected_cache.data(), cache.size());
  std::vector<PageView> views;
  for (int64_t p = 0; p < pages; p++) views.push_back({&cache[both * (size_t)p], &cache[both * (size_t)p + keys]});
  std::vector<float> q = random_floats((size_t)(rows * head_dim)), y((size_t)(rows * value_dim) + 1), expected(y.size());
  for (const Kernels* k : {&ours, &plain}) {
    std::vector<QueryRow> queries;
    for (int r = 0; r < rows; r++) {
      int64_t last = length - 1 - r % 3 < 0 ? 0 : length - 1 - r % 3, first = r % 2 ? last / 2 : 0;
      float* out = (k == &ours ? y : expected).data() + 1 + r * value_dim;
      queries.push_back({q.data() + 1 + r * head_dim, out, first, last, last, slope, sink});
    }
    std::vector<float> scratch(attend_scratch(shape, rows));
    k->attend(shape, queries.data(), rows, views.data(), pages, 0, scratch.data());
  }
  same("attend", y.data(), expected.data(), y.size(), 1e-5);
}

static void every_attention() {
  const float none = -INFINITY;
  for (KvType type : {KvType::F16, KvType::BF16, KvType::Q8_0, KvType::F32}) {
    for (int dim = 1; dim <= 34; dim++) attention(type, dim, 35 - dim, 3, 40, 0, 0, none);
    for (int dim : {64, 96, 128}) attention(type, dim, dim, 5, 70, 0, 0, none);
    for (int rows = 1; rows <= 18; rows++) attention(type, 32, 48, rows, 45, 0, 0, none);
    for (int64_t length = 1; length <= 70; length++) attention(type, 16, 16, 2, length, 0, 0, none);
    attention(type, 24, 24, 4, 66, 30.0f, 0, none);
    attention(type, 24, 24, 4, 66, 0, 0.25f, none);
    attention(type, 24, 24, 4, 66, 0, 0, 1.5f);
  }
}

int main() {
  quantizing();
  every_block_type();
  linear_floats();
  row_wise();
  every_attention();
  std::printf("%s: %ld values as the plain kernels have them\n", ours.name, checked);
}
