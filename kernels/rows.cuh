// rows: rows gathered by their numbers, class numbers turned into rows of 0 and 1, and numbers put where a graph reads them.
#pragma once
#include "arguments.cuh"

// out[r] = from[numbers[r]], a row being `words` words of whatever the rows hold.
template <typename Word>
__device__ inline void gather(Size rows, Size words, const Word* from, const Size* numbers, Word* out) {
  const Size threads = Size(gridDim.x) * blockDim.x;
  for (Size i = Size(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * words; i += threads) {
    const Place here = place(i, words);
    out[i] = from[numbers[here.row] * words + here.column];
  }
}

template <typename T>
__device__ inline void one_hot(Size rows, Size width, const Size* labels, T* out) {
  const Size threads = Size(gridDim.x) * blockDim.x;
  for (Size i = Size(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * width; i += threads) {
    const Place here = place(i, width);
    out[i] = T(labels[here.row] == here.column);
  }
}

// out[i] = the i-th value; what a launch passes by value reaches the device without memory that the host must keep.
template <typename T>
__device__ inline void numbers(Size count, T v0, T v1, T v2, T v3, T v4, T v5, T v6, T v7, T* out) {
  const T values[] = {v0, v1, v2, v3, v4, v5, v6, v7};
  if (blockIdx.x == 0 && threadIdx.x == 0)
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) out[i] = values[i];
}
