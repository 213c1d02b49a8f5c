#pragma once
#include <node_api.h>

namespace lf {
void export_calls(napi_env env, napi_value exports);
}
