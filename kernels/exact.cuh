// The sigmoid, in float32 from IEEE operations alone, each rounded once: the same bits from every compiler and device.
#pragma once
#include "portable.cuh"

// 2^-24 e^x for x in [-70, 104], all normal numbers: e^x = 2^n e^r with n the whole number nearest to x / ln 2, so that
// |r| <= ln 2 / 2.
__device__ inline float scaled_exp(float x) {
  // Adding 1.5 * 2^23 rounds to a whole number, in the low bits; 127 - 24 more make them the exponent of 2^(n - 24).
  const float shift = 12583015.0f;
  const float bits = __fmaf_rn(x, 1.44269504f, shift), n = __fadd_rn(bits, -shift);
  // ln 2 in two parts, the first of so few digits that its product with n is exact.
  float r = __fmaf_rn(n, -0.693145752f, x);
  r = __fmaf_rn(n, -1.42860677e-6f, r);
  // e^r = 1 + r + r^2 q(r), with the q that makes the largest relative error least: 3.1e-9.
  float p = __fmaf_rn(1.38143124e-3f, r, 8.36885069e-3f);
  p = __fmaf_rn(p, r, 4.16684002e-2f);
  p = __fmaf_rn(p, r, 1.66665196e-1f);
  p = __fmaf_rn(p, r, 4.99999940e-1f);
  p = __fmaf_rn(p, r, 1.0f);
  p = __fmaf_rn(p, r, 1.0f);
  return __fmul_rn(p, __uint_as_float(__float_as_uint(bits) << 23));
}

// 1 / (1 + e^-z), numerator and denominator times 2^-24, so that e^-z is finite until the quotient is 0. Beyond 70 and
// -104 it is 1 and 0 to the last bit; NaN passes the comparisons.
__device__ inline float sigmoid(float z) {
  z = z > 70.0f ? 70.0f : z < -104.0f ? -104.0f : z;
  const float scale = 5.96046448e-8f;
  return __fdiv_rn(scale, __fadd_rn(scale, scaled_exp(-z)));
}

__device__ inline double sigmoid(double z) { return 1 / (1 + exp(-z)); }
