// The addon's entry point.
#include <napi.h>

#include "build_info.h"

static Napi::Object init(Napi::Env, Napi::Object exports) {
  exports.Set("buildStamp", LF_BUILD_STAMP);
  exports.Set("cudaSkipReason", LF_CUDA_SKIP_REASON);
  return exports;
}

NODE_API_MODULE(addon, init)
