// One turn of a loop that waits for another thread.
#pragma once
#include "api/kernel.h"

namespace lf::cpu {

LF_INLINE void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace lf::cpu
