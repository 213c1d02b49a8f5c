// The thread pool. Every thread has a share of a region's chunks, neighbours, and helps with the others' once it is through;
// the same share of the next region, so that what one kernel wrote is near the thread that reads it: a line of memory that
// another cache wrote or read costs up to twenty times as much. A share is one 64-bit word, generation | next chunk, from
// which threads claim chunks by compare-and-swap; a region ends when its chunks are done, not when every thread has woken.
// Workers spin briefly after a region, then sleep, so an idle process uses no CPU.
#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cpu/pause.h"
#include "cpu/processors.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#endif

namespace lf::cpu {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kMaxThreads = 256;

int current_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// A busy machine likes to wake a worker on the caller's processor, where it only delays the caller. Such a worker moves to
// any other processor that it may use; which ones it may use stays as it was.
void leave_cpu([[maybe_unused]] int cpu) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<size_t>(cpu), &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

thread_local int tls_index = 0;
thread_local bool tls_in_region = false;

class Pool {
 public:
  Pool() {
    const char* wish = std::getenv("LEANFORMER_THREADS");
    wanted_ = std::clamp(wish && *wish ? std::atoi(wish) : usable_cores(), 1, kMaxThreads);
  }

  int threads() const { return wanted_.load(std::memory_order_relaxed); }
  void set_threads(int n) { wanted_ = std::clamp(n, 1, kMaxThreads); }

  void run(int64_t n, int64_t grain, void* context, void (*body)(void*, int64_t, int64_t)) {
    const int64_t chunks = (n + grain - 1) / grain;
    const int threads = this->threads();
    // A second caller computes alone: it would only take the cores away from the first.
    if (threads == 1 || chunks == 1 || tls_in_region || busy_.exchange(true, std::memory_order_acquire)) {
      for (int64_t begin = 0; begin < n; begin += grain) body(context, begin, std::min(n, begin + grain));
      return;
    }
    if (started_ < threads - 1) start(threads - 1);
    // Closed shares first: a late worker of the last region must not claim a chunk with half of the new fields.
    const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
    const int closed = std::max(threads, threads_.load(std::memory_order_relaxed));
    for (int t = 0; t < closed; ++t) shares_[t].next.store(word(generation, 0xffffffffu), std::memory_order_release);
    n_.store(n, std::memory_order_release);
    grain_.store(grain, std::memory_order_release);
    context_.store(context, std::memory_order_release);
    body_.store(body, std::memory_order_release);
    chunks_.store(chunks, std::memory_order_release);
    threads_.store(threads, std::memory_order_release);
    caller_cpu_.store(current_cpu(), std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    for (int t = 0; t < threads; ++t) {
      shares_[t].next.store(word(generation, share_begin(t, chunks, threads)), std::memory_order_release);
    }
    generation_.store(generation, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    tls_in_region = true;
    work(generation, threads);
    tls_in_region = false;
    while (done_.load(std::memory_order_acquire) != chunks) pause();
    busy_.store(false, std::memory_order_release);
  }

 private:
  struct alignas(64) Share {
    std::atomic<uint64_t> next{0};
  };
  static uint64_t word(uint32_t generation, int64_t chunk) { return uint64_t{generation} << 32 | static_cast<uint32_t>(chunk); }
  static int64_t share_begin(int thread, int64_t chunks, int threads) { return thread * chunks / threads; }

  // Claims and runs chunks of one generation until none is left, those of its own share first.
  void work(uint32_t generation, int threads) {
    for (int i = 0; i < threads; ++i) {
      const int t = (tls_index + i) % threads;
      int64_t ran = 0;
      for (int64_t chunk; (chunk = claim(generation, t, threads)) >= 0; ++ran) {
        // The claim succeeded, so the region cannot end, and its fields cannot change, before this chunk is done.
        const int64_t begin = chunk * grain_;
        body_.load()(context_, begin, std::min<int64_t>(n_, begin + grain_));
      }
      if (ran) done_.fetch_add(ran, std::memory_order_release);
    }
  }

  // The next chunk of a share; -1: none is left, or the region is over.
  int64_t claim(uint32_t generation, int thread, int threads) {
    std::atomic<uint64_t>& next = shares_[thread].next;
    uint64_t share = next.load(std::memory_order_acquire);
    for (;;) {
      const int64_t chunk = static_cast<int64_t>(share & 0xffffffffu);
      if (static_cast<uint32_t>(share >> 32) != generation || chunk >= share_begin(thread + 1, chunks_, threads)) return -1;
      if (next.compare_exchange_weak(share, share + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return chunk;
    }
  }

  void start(int count) {
    for (; started_ < count; ++started_) {
      std::thread thread([this, index = started_ + 1] {
#if defined(__linux__)
        pthread_setname_np(pthread_self(), "lf-worker");
#endif
        tls_index = index;
        tls_in_region = true;
        loop(index);
      });
      thread.detach();
    }
  }

  void loop(int index) {
    uint32_t seen = 0;
    for (;;) {
      auto until = std::chrono::steady_clock::now() + kSpin;
      int checks = 0;
      while (generation() == seen) {
        pause();
        if ((++checks & 63) || std::chrono::steady_clock::now() < until) continue;
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return generation() != seen; });
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
      }
      seen = generation();
      const int threads = threads_.load(std::memory_order_relaxed);
      if (index >= threads) continue;
      const int cpu = current_cpu();
      if (cpu >= 0 && cpu == caller_cpu_.load(std::memory_order_relaxed)) leave_cpu(cpu);
      work(seen, threads);
    }
  }

  uint32_t generation() const { return generation_.load(std::memory_order_seq_cst); }

  alignas(64) std::atomic<uint32_t> generation_{0};
  Share shares_[kMaxThreads];
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<bool> busy_{false};
  std::atomic<int> sleepers_{0};
  std::atomic<int> wanted_{1};
  std::atomic<int> threads_{1};
  std::atomic<int> caller_cpu_{-1};
  int started_ = 0;
  // Atomic because a late worker may look at them while the next region is being set up.
  std::atomic<int64_t> n_{0}, grain_{1}, chunks_{0};
  std::atomic<void*> context_{nullptr};
  std::atomic<void (*)(void*, int64_t, int64_t)> body_{nullptr};
  std::mutex mutex_;
  std::condition_variable wake_;
};

Pool& pool() {
  static Pool& instance = *new Pool;  // leaked: process.exit() runs destructors while workers still run
  return instance;
}

class Scratch {
 public:
  ~Scratch() {
    for (auto& buffer : buffers_) std::free(buffer.data);
  }
  void* get(int slot, size_t bytes) {
    Buffer& buffer = buffers_[slot];
    if (buffer.bytes < bytes) {
      std::free(buffer.data);
      const size_t unit = bytes >= (size_t{1} << 20) ? size_t{2} << 20 : 4096;
      buffer.bytes = (bytes + unit - 1) / unit * unit;
      buffer.data = std::aligned_alloc(unit, buffer.bytes);
      if (!buffer.data) {
        buffer.bytes = 0;
        throw std::bad_alloc();
      }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
      if (unit > 4096) madvise(buffer.data, buffer.bytes, MADV_HUGEPAGE);
#endif
    }
    return buffer.data;
  }

 private:
  struct Buffer {
    void* data = nullptr;
    size_t bytes = 0;
  };
  Buffer buffers_[4];
};

}  // namespace

void run_parallel(int64_t n, int64_t grain, void* context, void (*body)(void*, int64_t, int64_t)) {
  pool().run(n, std::max<int64_t>(grain, 1), context, body);
}

int num_threads() { return pool().threads(); }
void set_num_threads(int n) { pool().set_threads(n); }
int thread_index() { return tls_index; }

void* scratch(int slot, size_t bytes) {
  thread_local Scratch buffers;
  return buffers.get(slot, bytes);
}

}  // namespace lf::cpu
