// Graphs of launches: the GraphServices of api/backend.h.
#pragma once
#include <cstdint>

namespace lf::cuda {

int32_t begin_graph(void* stream, int64_t block_bytes, void** graph, char* error);
int32_t copy_in_graph(void* stream, void* graph, void* device, int64_t offset, int64_t bytes, char* error);
void attributes_in_graph(void* stream, void* graph, int64_t offset);
int32_t end_graph(void* stream, void* graph, char* error);
int32_t launch_graph(void* stream, void* graph, const void* block, char* error);
void destroy_graph(void* stream, void* graph);

}  // namespace lf::cuda
