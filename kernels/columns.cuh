// columns: a function of single elements, and the sums of its last argument down each column, in one pass: the delta and the bias
// gradient. A block takes some rows of some columns and adds in a fixed order; of several blocks' sums, the columns are summed again.
#pragma once
#include "arguments.cuh"

template <typename First>
__device__ inline First last_of(First first) {
  return first;
}
template <typename First, typename... Rest>
__device__ inline auto last_of(First, Rest... rest) {
  return last_of(rest...);
}

// The width is a multiple of V; a block is x columns' packs times y rows, y a power of two, x y = Threads.
template <int V, int Threads, typename T, typename Function, typename... Arguments>
__device__ inline void columns(Size rows, Size width, Size block_rows, T* sums, Function function, Arguments... arguments) {
  const Size column = (Size(blockIdx.x) * blockDim.x + threadIdx.x) * V, top = blockIdx.y * block_rows;
  const Size bottom = smaller(top + block_rows, rows);
  Pack<T, V> sum = all<V>(T(0));
  if (column < width)
#pragma unroll 1  // to unroll, the compiler would count the turns by a 64-bit division
    for (Size row = top + threadIdx.y; row < bottom; row += blockDim.y) {
      const Size i = row * width + column;
      [&](auto... packs) {
#pragma unroll
        for (int k = 0; k < V; ++k) function(packs.v[k]...);
        (arguments.store(i, packs), ...);
#pragma unroll
        for (int k = 0; k < V; ++k) sum.v[k] += last_of(packs...).v[k];
      }(arguments.template load<V>(i, width)...);
    }
  __shared__ Pack<T, V> parts[Threads];
  const int mine = threadIdx.y * blockDim.x + threadIdx.x;
  parts[mine] = sum;
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half)
#pragma unroll
      for (int k = 0; k < V; ++k) parts[mine].v[k] += parts[mine + half * blockDim.x].v[k];
  }
  if (threadIdx.y == 0 && column < width) {
#pragma unroll
    for (int k = 0; k < V; ++k) sums[blockIdx.y * width + column + k] = parts[mine].v[k];
  }
}
