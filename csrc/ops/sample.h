// The draw of a token; src/linnet/ops/sampling.py is its definition.
#pragma once
#include <cstdint>

#include "../kernels/kernels.h"

namespace linnet {

// A token id from logits [count]; see `Ops.sample` in src/linnet/ops/base.py. Weights and sums are float64. `allowed` holds a bit for
// each token, in words of 32, or is null: all are; -1 where none of them is above -infinity.
int64_t sample(const Kernels& kernels, const float* logits, int64_t count, const uint32_t* allowed, double temperature, int64_t top_k,
               double top_p, double min_p, double uniform);

}  // namespace linnet
