// Tensors to another format, rows shared out over the threads.
#pragma once
#include "../core/threads.h"
#include "../kernels/kernels.h"
#include "../quant/formats.h"

namespace linnet {

// Rows [rows, columns] as stored, one after another in `raw`, to rows of `target` in `out`. importance: weights of the columns'
// squared errors, or null. The same bytes for any number of threads. Throws std::domain_error naming the first row that holds a
// value which is not finite, or larger than `target` can hold.
void quantize_rows(const Kernels& kernels, ThreadPool& threads, const uint8_t* raw, const Format& stored, const Format& target,
                   int64_t rows, int64_t columns, const float* importance, uint8_t* out);

}  // namespace linnet
