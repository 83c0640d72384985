// elementwise: a function of single elements over whole arrays, V elements of each in one access.
#pragma once
#include "arguments.cuh"

// Elements i to i + V: what is read is loaded before anything is stored, so that an output may be an input's memory.
template <int V, typename Function, typename... Arguments>
__device__ inline void elements(Size i, Size width, Function function, Arguments... arguments) {
  [&](auto... packs) {
#pragma unroll
    for (int k = 0; k < V; ++k) function(packs.v[k]...);
    (arguments.store(i, packs), ...);
  }(arguments.template load<V>(i, width)...);
}

template <int V, typename Function, typename... Arguments>
__device__ inline void elementwise(Size count, Size width, Function function, Arguments... arguments) {
  const Size thread = Size(blockIdx.x) * blockDim.x + threadIdx.x, threads = Size(gridDim.x) * blockDim.x;
#pragma unroll 1  // to unroll, the compiler would count the turns by a 64-bit division, and most threads take one
  for (Size i = thread * V; i + V <= count; i += threads * V) elements<V>(i, width, function, arguments...);
  const Size rest = count - count % V + thread;  // the fewer than V elements at the end, one a thread
  if (rest < count) elements<1>(rest, width, function, arguments...);
}
