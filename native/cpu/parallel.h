// Fork-join over the process-wide thread pool. Chunk borders depend on (n, grain) alone, never on the number of
// threads, so a kernel that reduces per chunk and then combines the chunks in order gives the same bits on any number.
#pragma once
#include <cstddef>
#include <cstdint>

#include "api/kernel.h"

namespace lf::cpu {

// Calls body(context, begin, end) for [0, grain), [grain, 2 grain), ... below n, on all threads; returns when all are
// done. A region with one chunk, or started inside another region, runs on the calling thread.
void run_parallel(int64_t n, int64_t grain, void* context, void (*body)(void* context, int64_t begin, int64_t end));

// f(begin, end) must be callable from several threads at once.
template <class F>
LF_INLINE void parallel_for(int64_t n, int64_t grain, F&& f) {
  struct Thunk {
    static void call(void* context, int64_t begin, int64_t end) { (*static_cast<F*>(context))(begin, end); }
  };
  if (n <= grain) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
  run_parallel(n, grain, const_cast<void*>(static_cast<const void*>(&f)), Thunk::call);
}

int num_threads();             // threads of the pool, the caller included
void set_num_threads(int n);   // takes effect at the next region
int thread_index();            // 0 .. num_threads() - 1 inside a region, 0 outside

// A scratch buffer of the calling thread, 64-byte aligned, kept between calls and grown when needed. `slot` (0..3)
// tells buffers apart that one kernel needs at the same time. Contents are undefined.
void* scratch(int slot, size_t bytes);

}  // namespace lf::cpu
