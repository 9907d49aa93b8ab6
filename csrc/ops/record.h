// The operations of a forward, recorded on a tape; each is one op of src/linnet/ops/base.py, where its meaning stands.
#pragma once
#include "tape.h"

namespace linnet {

using MatrixPointer = std::shared_ptr<Matrix>;
using VectorPointer = std::shared_ptr<Vector>;

enum class Source : int { Tokens, Previous, Positions };

struct RopeShape {
  int start, dim;
  bool interleaved;
  int positions;  // 0: absolute, 1: ChatGLM's prompt, 2: its block
};

struct AttendShape {
  int layer, heads;
  float scale, softcap;
  int64_t window;  // 0: none
  bool bidirectional;
};

struct ConvolveShape {
  int layer;
  int64_t width, taps, start;  // start: of its inputs in a state
};

struct DeltaShape {
  int layer;
  int64_t key_heads, value_heads, key_dim, value_dim, start;  // start: of S in a state
};

struct RouterShape {
  int active, scoring;  // scoring: 0 softmax, 1 sigmoid, 2 softmax over the chosen
  bool normalise;
  float scale;
  int groups, active_groups;
};

int record_constant(Tape&, std::vector<float> values, int64_t width);  // rows of the batch, given at recording: for tests of ops
int record_embed(Tape&, MatrixPointer table, Source, int64_t offset);
int record_norm(Tape&, int x, VectorPointer weight, VectorPointer bias, int kind, float epsilon, int64_t groups);
// frequencies: [dim / 2 + 1], the last being the factor of cosines and sines; or, if null, entry `slot` of the step's rotations.
int record_angles(Tape&, const RopeShape&, VectorPointer frequencies, int slot);
int record_rotate(Tape&, int x, int angles, const RopeShape&, int64_t head_dim);
int record_activate(Tape&, int x, int activation);
int record_gate(Tape&, int gate, int up, int activation);
int record_add(Tape&, int a, int b, float a_scale, float b_scale);
int record_scale(Tape&, int x, float factor);
int record_weigh(Tape&, int x, int weights);
int record_columns(Tape&, int x, int64_t start, int64_t count);
int record_append_shared(Tape&, int x, int shared, int64_t heads);
int record_take(Tape&, int x);
int record_softcap(Tape&, int x, float cap);
// k, v: -1 where other work of the tape has written the pages before.
int record_attend(Tape&, const Cache::Shape&, const AttendShape&, int q, int k, int v, VectorPointer slopes, VectorPointer sinks);

int record_convolve(Tape&, const ConvolveShape&, int x, VectorPointer weight, VectorPointer bias);
int record_delta_rule(Tape&, const DeltaShape&, int q, int k, int v, int rate, int strength, VectorPointer decay);

struct ExpertWeights {
  MatrixPointer gate, up, down;  // gate: null where the blocks are plain
  VectorPointer gate_bias, up_bias, down_bias;
};
int record_experts(Tape&, int x, int logits, const ExpertWeights&, const RouterShape&, int activation, VectorPointer correction,
                   VectorPointer scale);

}  // namespace linnet
