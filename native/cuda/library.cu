// cuBLASLt behind library.h: handle, plans, the call.
#include "cuda/library.h"

#include <cublasLt.h>

#include "api/fp8.h"

#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace lf::cuda {
namespace {

constexpr int64_t kMostWorkspace = int64_t{32} << 20;
constexpr size_t kMostPlans = 4096;

// Everything that a plan depends on; compared byte by byte, so it has no padding.
struct Key {
  int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c, workspace;
  int32_t trans_a, trans_b, dtype_ab, dtype_c, adds, epilogue;
  int32_t align_a, align_b, align_c, align_d;

  bool operator==(const Key& other) const { return std::memcmp(this, &other, sizeof *this) == 0; }
};
static_assert(sizeof(Key) == 11 * 8 + 10 * 4);

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 1469598103934665603u;  // FNV-1a over words
    const auto* words = reinterpret_cast<const uint32_t*>(&key);
    for (size_t i = 0; i < sizeof key / 4; ++i) hash = (hash ^ words[i]) * 1099511628211u;
    return static_cast<size_t>(hash ^ hash >> 29);
  }
};

struct Plan {
  bool usable = false;
  cublasLtMatmulDescOpaque_t description;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

struct Library {
  cublasLtHandle_t handle = nullptr;
  std::unordered_map<Key, Plan, KeyHash> plans;
};

int32_t fail(const KernelArgs* args, const char* what, cublasStatus_t status) {
  std::snprintf(args->error, kErrorText, "cuBLASLt, %s: %s", what, cublasLtGetStatusString(status));
  return kKernel;
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF16: return CUDA_R_16F;
    case DType::kBF16: return CUDA_R_16BF;
    case DType::kF64: return CUDA_R_64F;
    case DType::kI8: return CUDA_R_8I;
    case DType::kI32: return CUDA_R_32I;
    default: return CUDA_R_32F;
  }
}

cudaDataType_t type_of(DType dtype, int fp8) {
  if (fp8 < 0) return type_of(dtype);
  return static_cast<Fp8>(fp8) == Fp8::kE4M3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
}

// Tensors start at multiples of 64; more must not count, because the arena does not promise it.
int32_t alignment(const void* pointer) {
  const auto bits = reinterpret_cast<uintptr_t>(pointer) | 64;
  return static_cast<int32_t>(bits & (~bits + 1));
}

cublasLtEpilogue_t epilogue_of(const Product& p) {
  if (p.gelu_gradient) return CUBLASLT_EPILOGUE_DGELU;
  if (p.gelu && p.aux) return p.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  if (p.gelu) return p.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  return p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

cublasStatus_t set_layout(cublasLtMatrixLayout_t layout, cudaDataType_t type, bool transposed, int64_t rows, int64_t columns,
                          int64_t leading, int64_t batch, int64_t stride) {
  // Row-major [rows, columns] is column-major [columns, rows]; a transposed operand is stored [columns, rows].
  const auto inner = static_cast<uint64_t>(transposed ? rows : columns), outer = static_cast<uint64_t>(transposed ? columns : rows);
  if (const auto bad = cublasLtMatrixLayoutInit(layout, type, inner, outer, leading)) return bad;
  if (batch == 1) return CUBLAS_STATUS_SUCCESS;
  const auto count = static_cast<int32_t>(batch);
  if (const auto bad = cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count)) return bad;
  return cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
}

template <class V>
cublasStatus_t set(Plan& plan, cublasLtMatmulDescAttributes_t attribute, V value) {
  return cublasLtMatmulDescSetAttribute(&plan.description, attribute, &value, sizeof value);
}

// The pointers of factors and of the epilogue, which differ from call to call.
cublasStatus_t point(Plan& plan, const Product& p) {
  if (p.fp8()) {
    if (const auto bad = set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.factor_b)) return bad;
    if (const auto bad = set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.factor_a)) return bad;
  }
  if (p.bias) {
    if (const auto bad = set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias)) return bad;
  }
  if (!p.aux) return CUBLAS_STATUS_SUCCESS;
  return set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
}

cublasStatus_t make_plan(Library& library, const Product& p, const Key& key, Plan& plan) {
  const bool f64 = p.dtype_ab == DType::kF64, i8 = p.dtype_ab == DType::kI8;
  const auto compute = f64                                            ? CUBLAS_COMPUTE_64F
                       : i8                                           ? CUBLAS_COMPUTE_32I
                       : p.dtype_ab == DType::kF32 && tf32_products() ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                      : CUBLAS_COMPUTE_32F;
#define LF_SET(call)                             \
  do {                                           \
    if (const auto bad = (call)) return bad;     \
  } while (0)
  LF_SET(cublasLtMatmulDescInit(&plan.description, compute, f64 ? CUDA_R_64F : i8 ? CUDA_R_32I : CUDA_R_32F));
  // Operands change places, so that rows of C are columns.
  LF_SET(set(plan, CUBLASLT_MATMUL_DESC_TRANSA, p.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N));
  LF_SET(set(plan, CUBLASLT_MATMUL_DESC_TRANSB, p.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N));
  LF_SET(set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p)));
  if (p.aux) {
    LF_SET(set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ldc));
    LF_SET(set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, p.stride_c));
  }
  LF_SET(point(plan, p));
  LF_SET(set_layout(&plan.a, type_of(p.dtype_ab, p.fp8_b), p.trans_b, p.k, p.n, p.ldb, p.batch, p.stride_b));
  LF_SET(set_layout(&plan.b, type_of(p.dtype_ab, p.fp8_a), p.trans_a, p.m, p.k, p.lda, p.batch, p.stride_a));
  LF_SET(set_layout(&plan.c, type_of(p.dtype_c), false, p.m, p.n, p.ldc, p.batch, p.stride_c));

  cublasLtMatmulPreferenceOpaque_t preference;
  LF_SET(cublasLtMatmulPreferenceInit(&preference));
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value);
  };
  LF_SET(prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(key.workspace)));
  LF_SET(prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
  LF_SET(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key.align_b)));
  LF_SET(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key.align_a)));
  LF_SET(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key.align_c)));
  LF_SET(prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key.align_d)));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  LF_SET(cublasLtMatmulAlgoGetHeuristic(library.handle, &plan.description, &plan.a, &plan.b, &plan.c, &plan.c, &preference, 1,
                                        &found, &count));
#undef LF_SET
  if (count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  plan.algorithm = found.algo;
  plan.usable = true;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

bool tf32_products() {
  static const bool on = [] {
    const char* set = std::getenv("LEANFORMER_TF32");
    return set && std::strcmp(set, "") && std::strcmp(set, "0");
  }();
  return on;
}

int64_t product_workspace(int64_t m, int64_t n, int64_t k, int64_t batch) {
  const double operations = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(batch);
  if (operations < 1 << 22) return 0;
  const double four_parts = 16.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(batch);
  const int64_t wanted = four_parts < static_cast<double>(kMostWorkspace) ? static_cast<int64_t>(four_parts) : kMostWorkspace;
  return (wanted < 1 << 20 ? 1 << 20 : wanted) + 256;
}

void close_library(Stream& at) {
  auto* gone = static_cast<Library*>(at.library);
  if (gone) cublasLtDestroy(gone->handle);
  delete gone;
  at.library = nullptr;
}

int32_t multiply(const KernelArgs* args, const Product& p, void* workspace, int64_t workspace_bytes, bool* done) {
  *done = false;
  Stream& stream = stream_of(args);
  if (!stream.library) {
    auto* made = new Library;
    if (const auto bad = cublasLtCreate(&made->handle)) {
      delete made;
      return fail(args, "start", bad);
    }
    stream.library = made;
  }
  Library& library = *static_cast<Library*>(stream.library);

  // The library wants its workspace at a multiple of 256.
  auto start = (reinterpret_cast<uintptr_t>(workspace) + 255) / 256 * 256;
  int64_t bytes = workspace_bytes - static_cast<int64_t>(start - reinterpret_cast<uintptr_t>(workspace));
  bytes = workspace && bytes >= 256 ? bytes / 256 * 256 : 0;
  // Where the block starts must not choose the algorithm.
  bytes = bytes > 256 ? (workspace_bytes - 256) / 256 * 256 : 0;

  const void* added = p.accumulate ? p.c : p.residual ? p.residual : p.c;
  Key key;
  std::memset(&key, 0, sizeof key);
  key.m = p.m, key.n = p.n, key.k = p.k, key.lda = p.lda, key.ldb = p.ldb, key.ldc = p.ldc;
  key.batch = p.batch, key.stride_a = p.stride_a, key.stride_b = p.stride_b, key.stride_c = p.stride_c, key.workspace = bytes;
  key.trans_a = p.trans_a, key.trans_b = p.trans_b;
  key.dtype_ab = p.fp8() ? -1 - 2 * p.fp8_a - p.fp8_b : static_cast<int32_t>(p.dtype_ab), key.dtype_c = static_cast<int32_t>(p.dtype_c);
  key.adds = p.accumulate || p.residual, key.epilogue = static_cast<int32_t>(epilogue_of(p));
  key.align_a = alignment(p.a), key.align_b = alignment(p.b), key.align_c = alignment(added), key.align_d = alignment(p.c);

  auto place = library.plans.find(key);
  if (place == library.plans.end()) {
    if (library.plans.size() >= kMostPlans) library.plans.clear();
    Plan plan;
    const auto bad = make_plan(library, p, key, plan);
    // What the library does not have is remembered, too.
    if (bad && !p.has_epilogue() && !p.fp8()) return fail(args, "no algorithm for this product", bad);
    place = library.plans.emplace(key, plan).first;
  }
  Plan& plan = place->second;
  if (!plan.usable) return kOk;
  if (const auto bad = point(plan, p)) return fail(args, "epilogue", bad);
  // In the format of the factors: 1, and what C is multiplied by before it is added.
  const float f32s[2] = {1, key.adds ? 1.0f : 0.0f};
  const double f64s[2] = {1, key.adds ? 1.0 : 0.0};
  const int32_t i32s[2] = {1, key.adds};
  const bool f64 = p.dtype_ab == DType::kF64, i8 = p.dtype_ab == DType::kI8;
  const void* one = f64 ? static_cast<const void*>(f64s) : i8 ? static_cast<const void*>(i32s) : f32s;
  const void* beta = f64 ? static_cast<const void*>(f64s + 1) : i8 ? static_cast<const void*>(i32s + 1) : f32s + 1;
  const auto bad = cublasLtMatmul(library.handle, &plan.description, one, p.b, &plan.a, p.a, &plan.b, beta, added, &plan.c, p.c, &plan.c,
                                  &plan.algorithm, bytes ? reinterpret_cast<void*>(start) : nullptr, static_cast<size_t>(bytes),
                                  stream.stream);
  if (bad) return fail(args, "product", bad);
  *done = true;
  return kOk;
}

}  // namespace lf::cuda
