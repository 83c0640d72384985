// What lets one text compile with NVRTC, nvcc and g++, and what several device functions share.
//
// Conventions of the device functions, each named as its kernel in gpubp/ is:
//   elementwise  f(T read, T& written, ...), one element, in the order of the kernel's arguments;
//   rowwise      f(Team team, const T* row, T value, T* row_written, T& value_written, ...): the lanes of a team share a row, by
//                each_column, row_sum and row_max, which give each column to one lane, in every pass the same;
//   reduction    f(T read, ..., T& total), which adds one element to a running total.
// A written element may be the memory of a read one. Literals are T(1): a bare 1.0 would turn a float kernel into a double one.
#pragma once

#ifndef __CUDACC__
#include <math.h>
#include <string.h>
#ifndef __device__
#define __device__
#endif
// Compiled with -ffp-contract=off each of these rounds once, as on the device.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
#endif

using Size = long long;

// The larger and the smaller of two, NaN if either is one, as NumPy's; fmax would drop the NaN and hide a divergence.
template <typename T>
__device__ inline T larger(T a, T b) {
  const T most = a > b ? a : b;  // in two steps, which every compiler turns into selects
  return a != a ? a : most;
}

template <typename T>
__device__ inline T smaller(T a, T b) {
  const T least = a < b ? a : b;
  return a != a ? a : least;
}

// The smallest normal number.
template <typename T>
__device__ inline T tiny();
template <>
__device__ inline float tiny<float>() { return 1.17549435e-38f; }
template <>
__device__ inline double tiny<double>() { return 2.2250738585072014e-308; }

template <typename T>
__device__ inline T infinity() {
  return T(__uint_as_float(0x7f800000));
}

// `above` for x > 0, `below` for x < 0, and x itself if it is 0 or NaN.
template <typename T>
__device__ inline T by_sign(T x, T above, T below) {
  return x > T(0) ? above : x < T(0) ? below : x;
}

// What function(j) gives for each column j of this lane, combined. On a CPU sixteen results are kept at first, so that
// sixteen columns can be computed side by side; which one that is depends on the width alone.
template <typename T, typename Team, typename Function, typename Combine>
__device__ inline T combined_columns(Team team, T start, Function function, Combine combine) {
  T result = start;
  Size j = team.lane;
#ifndef __CUDACC__
  constexpr int kept = 16;
  if (team.width >= kept * Team::lanes) {
    T results[kept];
    for (int k = 0; k < kept; ++k) results[k] = start;
    for (; j + (kept - 1) * Team::lanes < team.width; j += kept * Team::lanes)
#pragma GCC ivdep
      for (int k = 0; k < kept; ++k) results[k] = combine(results[k], function(j + k * Team::lanes));
#pragma GCC unroll 4
    for (int apart = kept / 2; apart > 0; apart /= 2)
#pragma GCC unroll 8
      for (int k = 0; k < apart; ++k) results[k] = combine(results[k], results[k + apart]);
    result = results[0];
  }
#pragma GCC ivdep
#endif
  for (; j < team.width; j += Team::lanes) result = combine(result, function(j));
  return result;
}

// The sum of function(j) over a row's columns j, and the largest. In another column nothing may depend on what it writes.
// The largest may miss a NaN; what is made of that element shows it.
template <typename Team, typename Function>
__device__ inline auto row_sum(Team team, Function function) {
  using T = decltype(function(Size()));
  return team.sum(combined_columns(team, T(0), function, [](T a, T b) { return a + b; }));
}

template <typename Team, typename Function>
__device__ inline auto row_max(Team team, Function function) {
  using T = decltype(function(Size()));
  return team.max(combined_columns(team, -infinity<T>(), function, [](T a, T b) { return b > a ? b : a; }));
}

template <typename Team, typename Function>
__device__ inline void each_column(Team team, Function function) {
#ifndef __CUDACC__
#pragma GCC ivdep
#endif
  for (Size j = team.lane; j < team.width; j += Team::lanes) function(j);
}
