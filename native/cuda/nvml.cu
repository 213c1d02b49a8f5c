// NVML by dlopen, with the few functions that are needed declared here: no header of the toolkit, no link-time library.
#include "cuda/nvml.h"

#include <dlfcn.h>

namespace lf::cuda {
namespace {

using Device = void*;
struct Nvml {
  int (*init)() = nullptr;
  int (*by_bus)(const char*, Device*) = nullptr;
  int (*power)(Device, unsigned*) = nullptr;                 // milliwatts
  int (*energy)(Device, unsigned long long*) = nullptr;      // millijoules since the driver was loaded
  int (*temperature)(Device, int, unsigned*) = nullptr;      // degrees Celsius; sensor 0 is the chip
  bool ready = false;

  Nvml() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    ready = find(init, "nvmlInit_v2") && find(by_bus, "nvmlDeviceGetHandleByPciBusId_v2") &&
            find(power, "nvmlDeviceGetPowerUsage") && find(energy, "nvmlDeviceGetTotalEnergyConsumption") &&
            find(temperature, "nvmlDeviceGetTemperature") && init() == 0;
  }
};

}  // namespace

void add_nvml_facts(const char* pci_bus, DeviceFacts* out) {
  static const Nvml& nvml = *new Nvml;
  Device device = nullptr;
  if (!nvml.ready || nvml.by_bus(pci_bus, &device)) return;
  unsigned number = 0;
  unsigned long long total = 0;
  if (!nvml.power(device, &number)) out->watts = number / 1e3;
  if (!nvml.energy(device, &total)) out->joules = static_cast<double>(total) / 1e3;
  if (!nvml.temperature(device, 0, &number)) out->celsius = number;
}

}  // namespace lf::cuda
