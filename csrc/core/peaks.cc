#include "peaks.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace linnet {

namespace {

constexpr int64_t kRounds = 1 << 20;  // of twelve independent chains each: some milliseconds
constexpr int kPasses = 7;

using Loop = void (*)(int64_t rounds);

#if defined(LINNET_X86)

// Twelve chains hide the latency of any of these instructions; what they compute is never looked at.
#define LINNET_TWELVE(one) one("0") one("1") one("2") one("3") one("4") one("5") one("6") one("7") one("8") one("9") one("10") one("11")
#define LINNET_LOOP(body)                                                                                                                  \
  asm volatile("vzeroall\n1:\n" body "dec %0\njnz 1b\nvzeroupper\n"                                                                        \
               : "+r"(rounds)                                                                                                              \
               :                                                                                                                           \
               : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
                 "xmm14", "xmm15")

#define LINNET_DOT_512(i) "vpdpbusd %%zmm12, %%zmm13, %%zmm" i "\n"
#define LINNET_FMA_512(i) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" i "\n"
#define LINNET_DOT_256(i) "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\nvpaddw %%ymm14, %%ymm" i ", %%ymm" i "\n"
#define LINNET_VNNI_256(i) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" i "\n"
#define LINNET_FMA_256(i) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" i "\n"

void dot_512(int64_t rounds) { LINNET_LOOP(LINNET_TWELVE(LINNET_DOT_512)); }
void fma_512(int64_t rounds) { LINNET_LOOP(LINNET_TWELVE(LINNET_FMA_512)); }
void dot_256(int64_t rounds) { LINNET_LOOP(LINNET_TWELVE(LINNET_DOT_256)); }
void fma_256(int64_t rounds) { LINNET_LOOP(LINNET_TWELVE(LINNET_FMA_256)); }
#if defined(LINNET_HAS_AVXVNNI)
void vnni_256(int64_t rounds) { LINNET_LOOP(LINNET_TWELVE(LINNET_VNNI_256)); }
#endif

#endif

// The best of several passes, in multiply-adds a second, where a round makes `each` of them.
double rate(ThreadPool& threads, Loop loop, double each) {
  double best = 0;
  for (int pass = 0; pass < kPasses; pass++) {
    auto start = std::chrono::steady_clock::now();
    // One piece a thread; a thread that comes late leaves its piece to another, and the pass is not the best.
    threads.run(threads.size(), [&](int64_t, int) { loop(kRounds); });
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, each * (double)kRounds * threads.size() / seconds);
  }
  return best;
}

}  // namespace

Peaks measure_peaks(ThreadPool& threads, const std::string& isa) {
#if defined(LINNET_X86)
  if (isa == "avx512") return {rate(threads, dot_512, 12 * 64), rate(threads, fma_512, 12 * 16)};
#if defined(LINNET_HAS_AVXVNNI)
  if (isa == "avxvnni") return {rate(threads, vnni_256, 12 * 32), rate(threads, fma_256, 12 * 8)};
#endif
  if (isa == "avx2") return {rate(threads, dot_256, 12 * 32), rate(threads, fma_256, 12 * 8)};
#endif
  (void)threads;
  (void)isa;
  return {0, 0};
}

}  // namespace linnet
