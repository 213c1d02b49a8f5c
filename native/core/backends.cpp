#include "core/backends.h"

#include "build_info.h"

namespace lf {

namespace cpu {
const Backend* backend();  // native/cpu/device.cpp
}

const std::vector<DeviceDescription>& available_devices() {
  static auto& devices = *new std::vector<DeviceDescription>{{"cpu", cpu::backend(), 0}, {"meta", nullptr, 0}};
  return devices;
}

std::string cuda_absence_reason() { return LF_CUDA_SKIP_REASON; }

}  // namespace lf
