// How many threads this process should compute with.
#pragma once

namespace lf::cpu {

// The cores that it may run on, and no more than its share of time (a container's limit), rounded up. Two threads of one core
// share its arithmetic units. At least 1.
int usable_cores();

}  // namespace lf::cpu
