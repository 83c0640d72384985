// rowwise: a function of whole rows, each given to a team of threads.
#pragma once
#include "arguments.cuh"

// The lanes that share a row: up to 32 of one warp, or a whole block.
template <int Lanes>
struct Team {
  static constexpr int lanes = Lanes;
  int lane;
  Size width;

  // Both are the same for every lane, and combine in the same order at every run.
  template <typename T>
  __device__ T sum(T value) const {
    return combined(value, [](T a, T b) { return a + b; });
  }
  template <typename T>
  __device__ T max(T value) const {
    return combined(value, [](T a, T b) { return larger(a, b); });
  }

 private:
  template <typename T, typename Function>
  __device__ T combined(T value, Function function) const {
    if constexpr (Lanes <= 32) {
      return of_warp<Lanes>(value, function);
    } else {
      __shared__ T parts[Lanes / 32];
      value = of_warp<32>(value, function);
      if (lane % 32 == 0) parts[lane / 32] = value;
      __syncthreads();
      value = parts[0];
      for (int warp = 1; warp < Lanes / 32; ++warp) value = function(value, parts[warp]);
      __syncthreads();  // before the next call writes parts
      return value;
    }
  }

  template <int Count, typename T, typename Function>
  __device__ T of_warp(T value, Function function) const {
    if constexpr (Count > 1) {
      const unsigned mask = Count == 32 ? ~0u : ((1u << Count) - 1) << (threadIdx.x % 32 / Count * Count);
#pragma unroll
      for (int apart = Count / 2; apart > 0; apart /= 2) value = function(value, __shfl_xor_sync(mask, value, apart));
    }
    return value;
  }
};

template <int Lanes, typename Function, typename... Arguments>
__device__ inline void rowwise(Size rows, Size width, Function function, Arguments... arguments) {
  const Size thread = Size(blockIdx.x) * blockDim.x + threadIdx.x, threads = Size(gridDim.x) * blockDim.x;
  const Team<Lanes> team{int(threadIdx.x % Lanes), width};
  for (Size row = thread / Lanes; row < rows; row += threads / Lanes) {
    [&](auto... taken) {
      function(team, taken...);
      if (team.lane == 0) (arguments.put(row, taken), ...);
    }(arguments.take(row, width)...);
  }
}
