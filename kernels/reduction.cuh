// reduction: each block's total of a function of single elements, in a fixed order; of several blocks' totals, the total again.
#pragma once
#include "rowwise.cuh"

template <int V, int Threads, typename T, typename Function, typename... Arguments>
__device__ inline void reduction(Size count, Size width, T* totals, Function function, Arguments... arguments) {
  const Size thread = Size(blockIdx.x) * Threads + threadIdx.x, threads = Size(gridDim.x) * Threads;
  T total = T(0);
  for (Size i = thread * V; i + V <= count; i += threads * V)
    [&](auto... packs) {
#pragma unroll
      for (int k = 0; k < V; ++k) function(packs.v[k]..., total);
    }(arguments.template load<V>(i, width)...);
  const Size rest = count - count % V + thread;
  if (rest < count) [&](auto... packs) { function(packs.v[0]..., total); }(arguments.template load<1>(rest, width)...);
  total = Team<Threads>{int(threadIdx.x), Threads}.sum(total);
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}
