#include "core/backends.h"

#include <cstdlib>
#include <mutex>

#include "build_info.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace lf {

namespace cpu {
const Backend* backend();  // native/cpu/device.cpp
}

namespace {

// Leaked on purpose: static destructors run while stream threads still work.
struct Devices {
  std::mutex mutex;
  std::vector<DeviceDescription> list{{"cpu", cpu::backend(), 0}, {"meta", nullptr, 0}};
  bool cuda_tried = false;
  std::string cuda_absence;
};
Devices& devices() {
  static auto& all = *new Devices;
  return all;
}

#if !defined(_WIN32)
// The plug-in's path: beside the library that holds this function.
std::string plugin_path() {
  if (const char* given = std::getenv("LEANFORMER_CUDA_PLUGIN")) return given;
  Dl_info here;
  std::string path = dladdr(reinterpret_cast<void*>(&load_cuda), &here) ? here.dli_fname : "";
  const size_t slash = path.rfind('/');
  return (slash == std::string::npos ? "." : path.substr(0, slash)) + "/leanformer_cuda.so";
}

// nullptr with the reason in `why`.
const Backend* open_cuda(std::string& why) {
  const std::string skipped = LF_CUDA_SKIP_REASON;
  const bool named = std::getenv("LEANFORMER_CUDA_PLUGIN") != nullptr;
  if (!skipped.empty() && !named) {
    why = "this build has no CUDA backend: " + skipped;
    return nullptr;
  }
  // The driver first: without one, the CUDA libraries need not be touched (hundreds of milliseconds and megabytes).
  if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
    why = "no NVIDIA driver on this machine (libcuda.so.1 was not found): install one, or use device 'cpu'";
    return nullptr;
  }
  const std::string path = plugin_path();
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const std::string reason = dlerror();
    why = "the CUDA plug-in could not be loaded: " + reason +
          "; install the library that is named (cuBLAS, cuSPARSE and nvJitLink come with a CUDA toolkit, or with pip's "
          "nvidia-cublas, nvidia-cusparse and nvidia-nvjitlink), or add its folder to LD_LIBRARY_PATH; if the plug-in itself "
          "is missing, build it with `npm rebuild leanformer`";
    return nullptr;
  }
  const auto entry = reinterpret_cast<BackendEntry>(dlsym(library, "leanformer_backend"));
  if (!entry) {
    why = path + " is not a plug-in of Leanformer";
    return nullptr;
  }
  char text[kErrorText] = "";
  const Backend* backend = entry(kAbiVersion, LF_BUILD_STAMP, text);
  if (!backend) why = text;
  return backend;  // never closed: CUDA's libraries do not survive that
}
#else
const Backend* open_cuda(std::string& why) {
  why = "the CUDA backend is for Linux only";
  return nullptr;
}
#endif

}  // namespace

std::vector<DeviceDescription> available_devices() {
  std::lock_guard lock(devices().mutex);
  return devices().list;
}

std::string load_cuda() {
  Devices& all = devices();
  std::lock_guard lock(all.mutex);
  if (all.cuda_tried) return all.cuda_absence;
  all.cuda_tried = true;
  if (const Backend* backend = open_cuda(all.cuda_absence)) {
    for (int i = 0; i < backend->device_count; ++i) all.list.push_back({"cuda:" + std::to_string(i), backend, i});
  }
  return all.cuda_absence;
}

}  // namespace lf
