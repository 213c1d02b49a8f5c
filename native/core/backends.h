// The devices of this process: `cpu`, `meta`, and those of plug-ins that could be loaded.
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

// Position = device number everywhere else. 0 is the CPU, 1 is meta.
const std::vector<DeviceDescription>& available_devices();

// Why a backend cannot be used, in a sentence; empty when it can.
std::string cuda_absence_reason();

}  // namespace lf
