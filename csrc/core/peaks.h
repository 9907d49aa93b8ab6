// What a processor's arithmetic can do at most: loops written in assembly, that nothing but the arithmetic units holds up.
#pragma once
#include <string>

#include "threads.h"

namespace linnet {

// Multiply-adds a second on all threads of the pool. integer: of bytes, as the block kernels of this instruction set do them;
// real: of float32. 0: no loop is written for it.
struct Peaks {
  double integer, real;
};
Peaks measure_peaks(ThreadPool&, const std::string& isa);

}  // namespace linnet
