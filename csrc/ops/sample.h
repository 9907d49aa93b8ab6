// The draw of a token; src/linnet/ops/sampling.py is its definition.
#pragma once
#include <cstdint>

namespace linnet {

// A token id from logits [count]; see `Ops.sample` in src/linnet/ops/base.py. Weights and sums are float64.
int64_t sample(const float* logits, int64_t count, double temperature, int64_t top_k, double top_p, double min_p, double uniform);

}  // namespace linnet
