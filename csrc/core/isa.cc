#include "isa.h"

#include <cstdlib>
#include <stdexcept>

#if defined(LINNET_X86)
#include <cpuid.h>
#elif defined(LINNET_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace linnet {

// What compilers learned to ask for by name only lately: F16C (CPUID leaf 1, ECX bit 29; GCC 11, Clang 18) and AVX-VNNI (leaf 7,
// subleaf 1, EAX bit 4). Their registers are AVX2's: where the system saves those, it saves these.
#if defined(LINNET_X86)
static bool has_f16c() {
  unsigned eax, ebx, ecx = 0, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx >> 29 & 1);
}
#endif
#if defined(LINNET_HAS_AVXVNNI)
static bool has_avxvnni() {
  unsigned most = 0, eax = 0, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &most, &ebx, &ecx, &edx) && most >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
}
#endif

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
#if defined(LINNET_X86)
  // __builtin_cpu_supports also asks the operating system whether it saves the registers (XGETBV).
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#if defined(LINNET_HAS_AVX512)
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (avx512) names.push_back("avx512");
#endif
#if defined(LINNET_HAS_AVXVNNI)
  if (avx2 && has_avxvnni()) names.push_back("avxvnni");
#endif
  if (avx2) names.push_back("avx2");
#elif defined(LINNET_ARM64) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) names.push_back("neon");
#elif defined(LINNET_ARM64) && defined(__APPLE__)
  names.push_back("neon");  // every Apple processor that a Mac has
#endif
  names.push_back("scalar");
  return names;
}

const Kernels& kernels_for(const std::string& wanted) {
  std::vector<std::string> names = available_isas();
  const char* forced = std::getenv("LINNET_ISA");
  std::string name = !wanted.empty() ? wanted : (forced && *forced ? forced : names.front());
  std::string list;
  bool known = false;
  for (const std::string& n : names) {
    known |= n == name;
    list += (list.empty() ? "" : ", ") + n;
  }
  if (!known) throw std::invalid_argument("instruction set '" + name + "' is not available on this processor; it has: " + list);
#if defined(LINNET_X86)
#if defined(LINNET_HAS_AVX512)
  if (name == "avx512") return avx512::table();
#endif
#if defined(LINNET_HAS_AVXVNNI)
  if (name == "avxvnni") return avxvnni::table();
#endif
  if (name == "avx2") return avx2::table();
#elif defined(LINNET_ARM64)
  if (name == "neon") return neon::table();
#endif
  return scalar::table();
}

}  // namespace linnet
