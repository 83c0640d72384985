// rows: rows gathered by their numbers, class numbers turned into rows of 0 and 1, and what a graph reads put in its place.
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

// The same of the rows of one step: numbers[*step * stride + r].
template <typename Word>
__device__ inline void gather_step(Size rows, Size words, Size stride, const Word* from, const Size* numbers, const Size* step,
                                   Word* out) {
  gather(rows, words, from, numbers + *step * stride, out);
}

// The same rows of float as bfloat16.
template <typename To>
__device__ inline void gather_halves(Size rows, Size width, Size stride, const float* from, const Size* numbers, const Size* step,
                                     To* out) {
  const Size threads = Size(gridDim.x) * blockDim.x, first = *step * stride;
  for (Size i = Size(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * width; i += threads) {
    const Place here = place(i, width);
    out[i] = halved(from[numbers[first + here.row] * width + here.column]);
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

template <typename T>
__device__ inline void one_hot_step(Size rows, Size width, Size stride, const Size* labels, const Size* numbers, const Size* step,
                                    T* out) {
  const Size threads = Size(gridDim.x) * blockDim.x, first = *step * stride;
  for (Size i = Size(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * width; i += threads) {
    const Place here = place(i, width);
    out[i] = T(labels[numbers[first + here.row]] == here.column);
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

// The next step of an epoch: the results of the one before are noted, one column a step, and its own numbers laid out. One block.
template <typename T>
__device__ inline void advance(Size steps, Size count, Size wholes, Size* step, const T* table, const unsigned* keys, T* now,
                               unsigned* keys_now, const T* results, T* log) {
  const Size next = *step + 1, i = threadIdx.x;
  __syncthreads();
  if (i == 0) *step = next;
  if (i < 2 && next > 0) log[i * steps + next - 1] = results[i];
  if (next < steps) {
    for (Size k = i; k < count; k += blockDim.x) now[k] = table[next * count + k];
    for (Size k = i; k < wholes; k += blockDim.x) keys_now[k] = keys[next * wholes + k];
  }
}
