// Products with sparse matrices through cuSPARSE: one handle and one cache of plans per stream. A plan is the descriptors of
// one product over one CSR or BSR pattern, and the buffer in which the library keeps what it found out about the pattern
// (cusparse*_preprocess), so that only the first SDDMM over a pattern analyses it. The pattern's lists must stay as they
// are for as long as a plan with their `layout` is used.
//
// The same bits on every run: SDDMM is deterministic, and of the SpMM algorithms CSR_ALG3 and BSR_ALG1 are. They take neither
// batches nor transposed matrices, so batches are stacked along the diagonal of one matrix, and A^T is given as a matrix of its own.
//
// Buffers of plans are the library's own and not part of the arena. A plan cannot be made while a graph is recorded; then the
// call fails, and the step goes on without a graph. One that a graph was recorded with stays.
#pragma once
#include "cuda/kernel.cuh"

namespace lf::cuda {

// A matrix of [rows, columns] without its values: CSR, or with block > 1 BSR, whose lists are of blocks of block x block values,
// each row by row (cuSPARSE from 12.5.1 on). rows, columns and entries are of single values. `layout` is another number for every
// other content.
struct SparsePattern {
  int64_t layout, rows, columns, entries, block;
  const int32_t *row_starts, *column_of;
};

// values [entries] = scale * (a [rows, width] b [columns, width]^T) where the pattern has entries. Float or double.
template <class A>
int32_t sampled_product(const KernelArgs* args, const SparsePattern& pattern, int64_t width, A scale, const A* a, const A* b, A* values);

// c [rows, width] = matrix b [columns, width]; `values` are the matrix's.
template <class A>
int32_t sparse_product(const KernelArgs* args, const SparsePattern& pattern, int64_t width, const A* values, const A* b, A* c);

void close_sparse_library(Stream& at);  // no product is under way

}  // namespace lf::cuda
