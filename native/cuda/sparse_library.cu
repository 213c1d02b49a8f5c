// cuSPARSE behind sparse_library.h: handle, plans, the calls.
#include "cuda/sparse_library.h"

#include <cusparse.h>

#include <map>
#include <tuple>

namespace lf::cuda {
namespace {

constexpr size_t kMostPlans = 256;

enum Kind { kSampled, kSparse };

// What a plan depends on: kind, layout, rows, columns, entries, width, bytes of a number, where the lists are, and the queue,
// because products of two branches cannot share a buffer.
using Key = std::tuple<int, int64_t, int64_t, int64_t, int64_t, int64_t, int, const void*, const void*, cudaStream_t>;

struct Plan {
  cusparseSpMatDescr_t sparse = nullptr;
  cusparseDnMatDescr_t left = nullptr, right = nullptr;  // SDDMM: a and b^T; SpMM: c and b
  void* buffer = nullptr;
  uint64_t used = 0;
  bool recorded = false;
};

struct Library {
  cusparseHandle_t handle = nullptr;
  std::map<Key, Plan> plans;
  uint64_t calls = 0;
};

Library& library_of(Stream& stream) {
  if (!stream.sparse_library) stream.sparse_library = new Library;
  return *static_cast<Library*>(stream.sparse_library);
}

int32_t fail(const KernelArgs* args, const char* what, cusparseStatus_t status) {
  std::snprintf(args->error, kErrorText, "cuSPARSE, %s: %s", what, cusparseGetErrorString(status));
  return kKernel;
}
#define LF_SPARSE(what, call)                                                 \
  do {                                                                        \
    if (const cusparseStatus_t bad_ = (call)) return fail(args, what, bad_);  \
  } while (0)

template <class A>
constexpr cudaDataType kType = sizeof(A) == 8 ? CUDA_R_64F : CUDA_R_32F;

constexpr auto kPlain = CUSPARSE_OPERATION_NON_TRANSPOSE;

// Layouts have blocks where the build found a library that knows BSR_ALG1.
cusparseSpMMAlg_t algorithm_of(const SparsePattern& p) {
#if CUSPARSE_VERSION >= 12501
  if (p.block > 1) return CUSPARSE_SPMM_BSR_ALG1;
#endif
  return CUSPARSE_SPMM_CSR_ALG3;
}

void destroy(Plan& plan) {
  if (plan.sparse) cusparseDestroySpMat(plan.sparse);
  if (plan.left) cusparseDestroyDnMat(plan.left);
  if (plan.right) cusparseDestroyDnMat(plan.right);
  if (plan.buffer) cudaFree(plan.buffer);  // waits until nothing uses it
}

void drop_oldest(Library& library) {
  auto oldest = library.plans.end();
  for (auto at = library.plans.begin(); at != library.plans.end(); ++at) {
    if (!at->second.recorded && (oldest == library.plans.end() || at->second.used < oldest->second.used)) oldest = at;
  }
  if (oldest == library.plans.end()) return;
  destroy(oldest->second);
  library.plans.erase(oldest);
}

// Descriptors and the analysis; the pointers are those of the call that makes the plan.
template <class A>
int32_t make_plan(const KernelArgs* args, Library& library, Kind kind, const SparsePattern& p, int64_t width, A* values, A* left,
                  A* right, Plan& plan) {
  const A one = 1, zero = 0;
  auto *starts = const_cast<int32_t*>(p.row_starts), *column_of = const_cast<int32_t*>(p.column_of);
  if (p.block > 1) {
    LF_SPARSE("pattern of blocks", cusparseCreateBsr(&plan.sparse, p.rows / p.block, p.columns / p.block, p.entries / (p.block * p.block), p.block,
                                                     p.block, starts, column_of, values, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I,
                                                     CUSPARSE_INDEX_BASE_ZERO, kType<A>, CUSPARSE_ORDER_ROW));
  } else {
    LF_SPARSE("pattern", cusparseCreateCsr(&plan.sparse, p.rows, p.columns, p.entries, starts, column_of, values, CUSPARSE_INDEX_32I,
                                           CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, kType<A>));
  }
  LF_SPARSE("matrix", cusparseCreateDnMat(&plan.left, p.rows, width, width, left, kType<A>, CUSPARSE_ORDER_ROW));
  // The transpose of rows is a matrix of columns.
  if (kind == kSampled) {
    LF_SPARSE("matrix", cusparseCreateDnMat(&plan.right, width, p.columns, width, right, kType<A>, CUSPARSE_ORDER_COL));
  } else {
    LF_SPARSE("matrix", cusparseCreateDnMat(&plan.right, p.columns, width, width, right, kType<A>, CUSPARSE_ORDER_ROW));
  }
  size_t bytes = 0;
  if (kind == kSampled) {
    LF_SPARSE("size of SDDMM", cusparseSDDMM_bufferSize(library.handle, kPlain, kPlain, &one, plan.left, plan.right, &zero, plan.sparse,
                                                        kType<A>, CUSPARSE_SDDMM_ALG_DEFAULT, &bytes));
  } else {
    LF_SPARSE("size of SpMM", cusparseSpMM_bufferSize(library.handle, kPlain, kPlain, &one, plan.sparse, plan.right, &zero, plan.left,
                                                      kType<A>, algorithm_of(p), &bytes));
  }
  if (const cudaError_t code = cudaMalloc(&plan.buffer, bytes ? bytes : 16)) {
    cudaGetLastError();
    std::snprintf(args->error, kErrorText, "cuSPARSE needs %zu bytes for a pattern of %lld pairs: %s", bytes,
                  static_cast<long long>(p.entries), cudaGetErrorString(code));
    return kOutOfMemory;
  }
  // SpMM is not analysed ahead: on an H100, cuSPARSE 12.6, the deterministic CSR_ALG3 gives other bits in every run after
  // cusparseSpMM_preprocess (rows of 1300 entries, 2 to 64 rows), and the same bits in all runs without.
  if (kind == kSampled) {
    LF_SPARSE("analysis of SDDMM", cusparseSDDMM_preprocess(library.handle, kPlain, kPlain, &one, plan.left, plan.right, &zero,
                                                            plan.sparse, kType<A>, CUSPARSE_SDDMM_ALG_DEFAULT, plan.buffer));
  }
  return kOk;
}

// The plan of a product, with the pointers of this call.
template <class A>
int32_t find_plan(const KernelArgs* args, Kind kind, const SparsePattern& p, int64_t width, A* values, A* left, A* right, Library*& library,
                  Plan*& out) {
  Stream& stream = stream_of(args);
  library = &library_of(stream);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (const cudaError_t code = cudaStreamIsCapturing(stream.stream, &capture)) return report(args, code);
  const bool recording = capture != cudaStreamCaptureStatusNone;
  const Key key{kind, p.layout, p.rows, p.columns, p.entries, width, static_cast<int>(sizeof(A)), p.row_starts, p.column_of,
                stream.stream};
  if (!library->handle) LF_SPARSE("start", cusparseCreate(&library->handle));
  LF_SPARSE("stream", cusparseSetStream(library->handle, stream.stream));
  auto found = library->plans.find(key);
  if (found == library->plans.end()) {
    if (recording) {
      std::snprintf(args->error, kErrorText, "a pattern is not analysed while a graph is recorded");
      return kKernel;
    }
    if (library->plans.size() >= kMostPlans) drop_oldest(*library);
    Plan plan;
    if (const int32_t code = make_plan(args, *library, kind, p, width, values, left, right, plan)) {
      destroy(plan);
      return code;
    }
    found = library->plans.emplace(key, plan).first;
  }
  out = &found->second;
  out->used = ++library->calls;
  out->recorded |= recording;
  LF_SPARSE("values", cusparseSpMatSetValues(out->sparse, values));
  LF_SPARSE("matrix", cusparseDnMatSetValues(out->left, left));
  LF_SPARSE("matrix", cusparseDnMatSetValues(out->right, right));
  return kOk;
}

}  // namespace

void close_sparse_library(Stream& at) {
  auto* gone = static_cast<Library*>(at.sparse_library);
  if (!gone) return;
  for (auto& [key, plan] : gone->plans) destroy(plan);
  if (gone->handle) cusparseDestroy(gone->handle);
  delete gone;
  at.sparse_library = nullptr;
}

template <class A>
int32_t sampled_product(const KernelArgs* args, const SparsePattern& pattern, int64_t width, A scale, const A* a, const A* b, A* values) {
  Library* library = nullptr;
  Plan* plan = nullptr;
  if (const int32_t code = find_plan(args, kSampled, pattern, width, values, const_cast<A*>(a), const_cast<A*>(b), library, plan)) return code;
  const A zero = 0;
  // The library does not promise that what it multiplies with 0 is not read.
  if (const cudaError_t code = cudaMemsetAsync(values, 0, static_cast<size_t>(pattern.entries) * sizeof(A), stream_of(args).stream)) {
    return report(args, code);
  }
  LF_SPARSE("SDDMM", cusparseSDDMM(library->handle, kPlain, kPlain, &scale, plan->left, plan->right, &zero, plan->sparse, kType<A>,
                                   CUSPARSE_SDDMM_ALG_DEFAULT, plan->buffer));
  return kOk;
}

template <class A>
int32_t sparse_product(const KernelArgs* args, const SparsePattern& pattern, int64_t width, const A* values, const A* b, A* c) {
  Library* library = nullptr;
  Plan* plan = nullptr;
  if (const int32_t code = find_plan(args, kSparse, pattern, width, const_cast<A*>(values), c, const_cast<A*>(b), library, plan)) return code;
  const A one = 1, zero = 0;
  LF_SPARSE("SpMM", cusparseSpMM(library->handle, kPlain, kPlain, &one, plan->sparse, plan->right, &zero, plan->left, kType<A>,
                                 algorithm_of(pattern), plan->buffer));
  return kOk;
}

template int32_t sampled_product(const KernelArgs*, const SparsePattern&, int64_t, float, const float*, const float*, float*);
template int32_t sampled_product(const KernelArgs*, const SparsePattern&, int64_t, double, const double*, const double*, double*);
template int32_t sparse_product(const KernelArgs*, const SparsePattern&, int64_t, const float*, const float*, float*);
template int32_t sparse_product(const KernelArgs*, const SparsePattern&, int64_t, const double*, const double*, double*);

}  // namespace lf::cuda
