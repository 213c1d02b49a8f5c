// Power, energy and temperature from the driver's management library, found at run time; without it the numbers stay unknown.
#pragma once
#include "api/backend.h"

namespace lf::cuda {

void add_nvml_facts(const char* pci_bus, DeviceFacts* out);

}  // namespace lf::cuda
