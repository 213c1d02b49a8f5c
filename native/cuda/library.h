// Matrix products through cuBLASLt: one handle and one cache of plans per stream. A plan is the problem's descriptors and
// the algorithm that the library's heuristic names for it, so that only the first product of a kind asks.
// Tensors are row-major and cuBLASLt reads columns first, so it is asked for C^T = op(B)^T op(A)^T.
//
// The same bits on every run: algorithms are chosen by the problem and the alignment of its operands alone, and sums that
// are cut along k are combined in the workspace in a fixed order, never by atomics.
#pragma once
#include "cuda/kernel.cuh"

namespace lf::cuda {

enum class Activation : int32_t { kNone = 0, kGeluTanh, kGeluErf, kSilu, kRelu };  // as the attributes of matmul count

// C [m, n] = op(A) op(B) (+ residual, or + C), then the epilogue. Leading dimensions and strides count elements. Of i8 codes C is
// i32, exact; the library wants trans_b without trans_a, and k in multiples of 16.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
  bool trans_a = false, trans_b = false;
  DType dtype_ab = DType::kF32, dtype_c = DType::kF32;  // dtype_c: dtype_ab or f32; i32 of i8
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
  bool accumulate = false;
  // What the library can do while C is in registers. `residual` is like C and comes before the activation.
  const void* residual = nullptr;
  const void* bias = nullptr;  // [n], dtype_c
  bool gelu = false;           // tanh form; `aux` then receives its argument
  bool gelu_gradient = false;  // C = product * gelu'(aux)
  void* aux = nullptr;         // like C
  // Operands of u8 codes in an 8-bit format (api/fp8.h), from sm_89 on; C is f32. -1: not so. Each has a factor, f32 [1] on the
  // device. The library wants trans_b without trans_a, k and n in multiples of 16, and not E5M2 for both.
  int fp8_a = -1, fp8_b = -1;
  const float *factor_a = nullptr, *factor_b = nullptr;

  bool fp8() const { return fp8_a >= 0; }
  bool has_epilogue() const { return bias || gelu || gelu_gradient; }
};

// Whether f32 products are rounded to TF32's 10 bits on their way into tensor cores: LEANFORMER_TF32=1.
bool tf32_products();

// A good size for the library's workspace, from the shape alone. It is only needed to cut long sums.
int64_t product_workspace(int64_t m, int64_t n, int64_t k, int64_t batch);

// Enqueues the product. `*done` is false when the library has no such epilogue or no such 8-bit product here; then nothing was
// enqueued, and the product of numbers without an epilogue always works. m, n, k and batch above 0.
int32_t multiply(const KernelArgs* args, const Product& product, void* workspace, int64_t workspace_bytes, bool* done);

void close_library(Stream& at);  // no product is under way

}  // namespace lf::cuda
