// Collects the kernels of one instruction set.
#include "kernels.h"

namespace linnet {
namespace LINNET_ISA {

void set_block_kernels(Kernels&);
void set_superblock_kernels(Kernels&);
void set_float_kernels(Kernels&);
void set_quantize_kernels(Kernels&);
void set_elementwise_kernels(Kernels&);
void set_attention_kernels(Kernels&);
void set_store_kernels(Kernels&);
void set_draw_kernels(Kernels&);
void set_recurrent_kernels(Kernels&);
void set_encoders(Kernels&);

#define LINNET_NAME_OF(x) #x
#define LINNET_NAME(x) LINNET_NAME_OF(x)

const Kernels& table() {
  static Kernels kernels;
  static bool ready = false;  // filled before any thread starts: the first context is made under the GIL
  if (!ready) {
    kernels.name = LINNET_NAME(LINNET_ISA);
    set_block_kernels(kernels);
    set_superblock_kernels(kernels);
    set_float_kernels(kernels);
    set_quantize_kernels(kernels);
    set_elementwise_kernels(kernels);
    set_attention_kernels(kernels);
    set_store_kernels(kernels);
    set_draw_kernels(kernels);
    set_recurrent_kernels(kernels);
    set_encoders(kernels);
    ready = true;
  }
  return kernels;
}

}  // namespace LINNET_ISA
}  // namespace linnet
