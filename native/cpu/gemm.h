// C = epilogue(alpha * op(A) op(B) [+ C]), row-major, batched. The one matrix product of the CPU backend: every layer,
// convolution, attention gradient and the fused loss come through here.
#pragma once
#include <cstdint>

#include "api/kernel.h"

namespace lf::cpu {

enum class Activation : int32_t { kNone = 0, kGeluTanh, kGeluErf, kSilu, kRelu };

// What happens to a tile of C while it is still in registers or cache, in this order:
//   t = alpha * product (+ C when accumulating);  t += bias[col];  pre_activation = t;  t = activation(t);
//   t *= activation'(grad_input) when grad_activation is set, and activated_input = grad_activation(grad_input);
//   t += residual;  C = t rounded to dtype_c.
struct GemmEpilogue {
  const void* bias = nullptr;  // [n]
  DType bias_dtype = DType::kF32;
  Activation activation = Activation::kNone;
  void* pre_activation = nullptr;  // [m, n], dtype_c, leading dimension ldc
  Activation grad_activation = Activation::kNone;
  const void* grad_input = nullptr;  // [m, n], dtype_c, leading dimension ldc
  void* activated_input = nullptr;   // [m, n], dtype_c, leading dimension ldc
  const void* residual = nullptr;    // [m, n], dtype_c, leading dimension ldc
};

struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  // op(A) is [m, k]: stored [m, k] with leading dimension lda, or [k, m] when trans_a. op(B) is [k, n]: stored [k, n],
  // or [n, k] when trans_b. A and B share one dtype: f32, f16, bf16 (f32 accumulation) or f64 (f64 accumulation).
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  DType dtype_ab = DType::kF32;
  DType dtype_c = DType::kF32;  // dtype_ab or f32
  bool trans_a = false, trans_b = false;
  int64_t lda = 0, ldb = 0, ldc = 0;
  int64_t batch = 1;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0;  // elements between batch entries; 0 shares the operand
  double alpha = 1;
  bool accumulate = false;  // add to what C holds
  // When not null: float [m] (double for f64) that receives the sum over k of op(A)[i, :] of batch entry 0, computed
  // while A is packed. With A = dY^T this is the bias gradient. Added to what it holds when accumulate is set.
  void* row_sums_a = nullptr;
  GemmEpilogue epilogue;
};

// Runs on all threads of the pool. The bits of C do not depend on the number of threads: k is never split among them.
void gemm(const Gemm& problem);

}  // namespace lf::cpu
