// Branches: parts of a program that may run beside each other, each on a queue of its own. The program's order still decides
// everything that can be seen: placements, live and peak bytes, results. A branch begins after what the device was given
// before, waits for another where it uses what that made, and what follows the branches comes after all of them. Memory
// released meanwhile may be in use by a branch beside the one that is being asked for: it counts as free at once, and is handed
// out to the branch that alone used it, or when the branches have come together. So they do early where memory has run out,
// where a tensor is changed in place, and before anything but kernels: reads, pages, fences, the end of a step.
#include <cstddef>

#include "core/stream.h"

namespace lf {

// Checks and clocks look at one kernel after the other.
bool Stream::branching() const { return branch_ && !check_guards_ && !check_nonfinite_ && !time_operators_; }

void Stream::assign(Launch& launch, const std::vector<Operand>& inputs) {
  const uint32_t own = 1u << branch_;
  launch.branch = branch_;
  launch.after = 0;
  if (!(open_branches_ & own)) {
    launch.after |= 1;  // the device's own queue
    totals_.branches += 1;
  }
  for (const Operand& in : inputs) {
    if (!in.storage || in.storage->region != region_ || in.storage->branch == branch_) continue;
    launch.after |= 1u << in.storage->branch;
    in.storage->shared = true;
  }
  open_branches_ |= own;
}

void Stream::made_here(Storage* storage) {
  storage->branch = branch_;
  storage->region = region_;
  storage->shared = false;
}

void Stream::join_branches() {
  if (!open_branches_) return;
  Launch meeting;
  meeting.after = open_branches_;
  char text[kErrorText] = "";
  if (step_.recording()) {
    step_.add(std::move(meeting));
  } else if (const int32_t code = run_launch(backend_, stream_, meeting, text)) {
    fail(static_cast<Code>(code), text);
  }
  open_branches_ = 0;
  region_ += 1;
  for (const Deferred& one : deferred_) arena_.free_held(one.block);
  deferred_.clear();
}

void Stream::give_back(void* block, bool own) {
  if (!open_branches_) return arena_.release(block);
  deferred_.push_back({block, arena_.asked(block), own ? branch_ : 0});
  arena_.retire(block);
}

void* Stream::take_back(int64_t bytes) {
  for (size_t i = deferred_.size(); i-- > 0;) {
    if (deferred_[i].bytes != bytes || !branch_ || deferred_[i].branch != branch_) continue;
    void* block = deferred_[i].block;
    if (!arena_.adopt(block)) return nullptr;
    deferred_.erase(deferred_.begin() + static_cast<std::ptrdiff_t>(i));
    return block;
  }
  return nullptr;
}

}  // namespace lf
