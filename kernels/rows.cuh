// rows: rows gathered by their numbers, and class numbers turned into rows of 0 and 1.
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
