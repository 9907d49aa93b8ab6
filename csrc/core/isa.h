// Which instruction set runs: the best that the processor and the operating system have, or LINNET_ISA.
#pragma once
#include <string>
#include <vector>

#include "../kernels/kernels.h"

namespace linnet {

// Names that this processor can run, best first ("scalar" is always there).
std::vector<std::string> available_isas();

// The kernels of `name`; an empty name takes LINNET_ISA from the environment or else the best.
// Throws std::invalid_argument naming what there is when `name` is unknown or cannot run here.
const Kernels& kernels_for(const std::string& name);

}  // namespace linnet
