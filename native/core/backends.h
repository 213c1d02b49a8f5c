// The devices of this process: `cpu`, `meta`, and those of plug-ins, which join when somebody first asks for them.
#pragma once
#include <string>
#include <vector>

#include "api/backend.h"

namespace lf {

struct DeviceDescription {
  std::string name;        // "cpu", "meta", "cuda:0"
  const Backend* backend;  // nullptr: meta
  int index;               // among the backend's devices
};

// Position = device number everywhere else. 0 is the CPU, 1 is meta; CUDA devices follow once load_cuda() has run. A device
// that is in the list stays there.
std::vector<DeviceDescription> available_devices();

// Looks for a driver (a fraction of a millisecond where there is none), then loads the plug-in beside the addon, or the
// one that LEANFORMER_CUDA_PLUGIN names. Returns why there is no CUDA device, in a sentence with what to do; empty when
// there is one. The outcome is kept: later calls cost nothing.
std::string load_cuda();

}  // namespace lf
