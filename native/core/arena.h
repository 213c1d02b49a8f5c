// Places tensors in slabs of device memory: best fit with coalescing, 64-byte aligned, O(log n). Knows no device: the
// slabs come from a function, and the `meta` device hands out addresses that nobody touches. Used by one thread only.
// live_bytes and peak_bytes count what was asked for, so they are a property of the program alone.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>
#include <vector>

namespace lf {

class Arena {
 public:
  using SlabSource = std::function<void*(int64_t bytes)>;  // nullptr when there is no memory
  explicit Arena(SlabSource source) : source_(std::move(source)) {}

  // nullptr when the limit or the device's memory is exhausted. bytes > 0.
  void* allocate(int64_t bytes);
  void release(void* pointer);
  // Whether that many bytes can be placed in the slabs that are there.
  bool fits(int64_t bytes) const;

  // Held blocks are neither live nor free: a copy beside the kernels uses them.
  void* hold(int64_t bytes);    // free -> held; nullptr where they do not fit, or the limit does not allow them
  bool adopt(void* pointer);    // held -> live; false beyond the limit
  void retire(void* pointer);   // live -> held
  void free_held(void* pointer);
  int64_t asked(void* pointer) const { return live_.at(static_cast<char*>(pointer)).asked; }

  int64_t live_bytes() const { return live_bytes_; }
  int64_t peak_bytes() const { return peak_bytes_; }
  int64_t reserved_bytes() const { return reserved_bytes_; }
  int64_t live_blocks() const { return static_cast<int64_t>(live_.size()) - held_blocks_; }
  void reset_peak() { peak_bytes_ = live_bytes_; }
  void set_limit(int64_t bytes) { limit_ = bytes; }  // 0: none
  int64_t limit() const { return limit_; }
  // Blocks allocated from now on have `bytes` bytes (a multiple of 64) to spare before and after them, not counted as live.
  void set_guard(int64_t bytes) { guard_ = bytes; }
  int64_t guard_of(void* pointer) const;  // the spare bytes round a live block
  // Forgets everything and hands its slabs over.
  struct Slab {
    void* memory;
    int64_t bytes;
  };
  std::vector<Slab> take_slabs();

 private:
  struct Block {
    int64_t size;
    int slab;
  };
  void insert_free(char* at, Block block);
  void erase_free(std::map<char*, Block>::iterator it);

  SlabSource source_;
  std::map<char*, Block> free_by_address_;
  std::set<std::pair<int64_t, char*>> free_by_size_;
  struct Live {
    int64_t asked;
    int64_t guard;
    Block block;
    bool held;
  };
  char* take(int64_t size, int64_t asked, bool held);  // from a free block that is there
  void put_back(const std::unordered_map<char*, Live>::iterator& it);
  int64_t size_of(int64_t bytes) const;
  std::unordered_map<char*, Live> live_;
  std::vector<Slab> slabs_;
  int64_t held_blocks_ = 0;
  int64_t live_bytes_ = 0, peak_bytes_ = 0, reserved_bytes_ = 0, limit_ = 0, guard_ = 0;
};

}  // namespace lf
