// Weights of one row as blocks of a format, by the integers and scales that leave the smallest weighted squared error.
#pragma once
#include "../kernels/kernels.h"

namespace linnet {
namespace LINNET_ISA {

void set_block_encoders(Kernels&);
void set_affine_encoders(Kernels&);
void set_symmetric_encoders(Kernels&);

}  // namespace LINNET_ISA
}  // namespace linnet
