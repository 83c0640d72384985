// What lets one text compile with NVRTC, nvcc and g++, and what several device functions share.
//
// Conventions of the device functions, each named as its kernel in gpubp/ is:
//   elementwise  f(T read, T& written, ...), one element, in the order of the kernel's arguments;
//   rowwise      f(Team team, const T* row, T value, T* row_written, T& value_written, ...): the lanes of a team share a row,
//                each takes the columns team.lane, team.lane + Team::lanes, ..., and all get team.sum() and team.max();
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
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
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
  return a > b || a != a ? a : b;
}

template <typename T>
__device__ inline T smaller(T a, T b) {
  return a < b || a != a ? a : b;
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

// log(1 + e^-|x|); the minus keeps the exponential from overflowing.
template <typename T>
__device__ inline T log_one_plus_exp(T x) {
  return log1p(exp(-fabs(x)));
}
