// exp, expm1, tanh, log and the sigmoid, in float32 from IEEE operations alone, each rounded once: the same bits from every
// compiler and device. Nothing branches, so that a compiler can compute neighbouring elements side by side.
//
// The errors said of the functions are the largest over all numbers, in units in the last place (tests/test_exact_functions.py).
#pragma once
#include "portable.cuh"

// e^x = 2^n e^r, n the whole number nearest to x / ln 2, so that |r| <= ln 2 / 2, and e^r = 1 + r + r^2 q.
struct Exponential {
  float power, r, q;  // power is 2^n, times the power of 2 that was asked for
};

// Adding 1.5 * 2^23 rounds to a whole number, in the low bits; 127 more make them the exponent of 2^n.
constexpr float WHOLE = 12583039.0f;

// For x at which the power, 2^(n + k) with whole = WHOLE + k, is a normal number.
__device__ inline Exponential exponential(float x, float whole) {
  const float bits = __fmaf_rn(x, 1.44269504f, whole), n = __fadd_rn(bits, -whole);
  // ln 2 in two parts, the first of so few digits that its product with n is exact.
  float r = __fmaf_rn(n, -0.693145752f, x);
  r = __fmaf_rn(n, -1.42860677e-6f, r);
  // The q that makes the largest relative error of e^r least: 3.1e-9.
  float q = __fmaf_rn(1.38143124e-3f, r, 8.36885069e-3f);
  q = __fmaf_rn(q, r, 4.16684002e-2f);
  q = __fmaf_rn(q, r, 1.66665196e-1f);
  q = __fmaf_rn(q, r, 4.99999940e-1f);
  return {__uint_as_float(__float_as_uint(bits) << 23), r, q};
}

__device__ inline float scaled_exp(float x, float whole) {
  const Exponential e = exponential(x, whole);
  return __fmul_rn(__fmaf_rn(__fmaf_rn(e.q, e.r, 1.0f), e.r, 1.0f), e.power);
}

// 1 / (1 + e^-z), numerator and denominator times 2^-24, so that e^-z is finite until the quotient is 0. Beyond 70 and
// -104 it is 1 and 0 to the last bit; NaN passes the comparisons. 2.49 units.
__device__ inline float sigmoid(float z) {
  z = z > 70.0f ? 70.0f : z < -104.0f ? -104.0f : z;
  const float scale = 5.96046448e-8f;
  return __fdiv_rn(scale, __fadd_rn(scale, scaled_exp(-z, WHOLE - 24.0f)));
}

// By way of 2^-64 e^x or 2^64 e^x, which are normal numbers, so that a subnormal result too is rounded once. 0.91 units.
__device__ inline float exact_exp(float x) {
  x = x > 104.0f ? 104.0f : x < -104.0f ? -104.0f : x;
  const float near = scaled_exp(x, x > 0.0f ? WHOLE - 64.0f : WHOLE + 64.0f);
  return __fmul_rn(near, x > 0.0f ? 1.84467441e19f : 5.42101086e-20f);
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1), by way of its half, so that 2^n is finite. 1.46 units.
__device__ inline float exact_expm1(float x) {
  const Exponential e = exponential(x > 89.0f ? 89.0f : x < -80.0f ? -80.0f : x, WHOLE - 1.0f);
  const float near = __fmaf_rn(e.q, __fmul_rn(e.r, e.r), e.r);
  const float half = __fmaf_rn(e.power, near, __fadd_rn(e.power, -0.5f));
  return fabs(x) < 2.98023224e-8f ? x : __fadd_rn(half, half);  // x itself: the half of a subnormal, or -0, is not kept
}

// x + x^3 p(x^2) near 0, with a relative error of 4.6e-9, and 1 - 2 / (1 + e^2x) farther out. 1.37 units.
__device__ inline float exact_tanh(float x) {
  const float size = fabs(x), square = __fmul_rn(size, size);
  float p = __fmaf_rn(-5.69229620e-3f, square, 2.06281673e-2f);
  p = __fmaf_rn(p, square, -5.37365153e-2f);
  p = __fmaf_rn(p, square, 1.33314058e-1f);
  p = __fmaf_rn(p, square, -3.33332807e-1f);
  const float near = __fmaf_rn(__fmul_rn(size, square), p, size);
  const float power = scaled_exp(size > 10.0f ? 20.0f : __fadd_rn(size, size), WHOLE);
  const float far = __fadd_rn(1.0f, __fdiv_rn(-2.0f, __fadd_rn(1.0f, power)));
  return copysign(size < 0.625f ? near : far, x);
}

// log(1 + f) - f for f from sqrt(1/2) - 1 to sqrt(2) - 1, that is f^2 p(f): the relative error that p leaves in log(1 + f) is 5.9e-9.
__device__ inline float log_bend(float f) {
  float p = __fmaf_rn(-7.63643906e-2f, f, 1.27622172e-1f);
  p = __fmaf_rn(p, f, -1.31596103e-1f);
  p = __fmaf_rn(p, f, 1.42015800e-1f);
  p = __fmaf_rn(p, f, -1.66234091e-1f);
  p = __fmaf_rn(p, f, 2.00012416e-1f);
  p = __fmaf_rn(p, f, -2.50008196e-1f);
  p = __fmaf_rn(p, f, 3.33333313e-1f);
  p = __fmaf_rn(p, f, -0.5f);
  return __fmul_rn(p, __fmul_rn(f, f));
}

// log x = n ln 2 + log(1 + f), x = 2^n (1 + f), 1 + f from sqrt(1/2) to sqrt(2). NaN below 0. 0.93 units.
__device__ inline float exact_log(float x) {
  const bool subnormal = x < tiny<float>();
  const unsigned bits = __float_as_uint(subnormal ? __fmul_rn(x, 8388608.0f) : x);
  const unsigned power = (bits - 0x3f3504f3) & 0xff800000;  // 2^23 n, counted from the bits of sqrt(1/2)
  const float n = __fmaf_rn(float(int(power)), 1.19209290e-7f, subnormal ? -23.0f : 0.0f);
  const float f = __fadd_rn(__uint_as_float(bits - power), -1.0f);
  const float rest = __fadd_rn(f, __fmaf_rn(n, 1.42860677e-6f, log_bend(f)));
  const float y = __fmaf_rn(n, 0.693145752f, rest);
  return x > 0.0f ? (x < infinity<float>() ? y : x) : x == 0.0f ? -infinity<float>() : __uint_as_float(0x7fc00000);
}

// log(1 + e^-|x|); the minus keeps the exponential from overflowing. Of 1 + u beyond sqrt(2) it is ln 2 + log((1 + u) / 2).
// 1.94 units.
__device__ inline float log_one_plus_exp(float x) {
  const float u = exact_exp(-fabs(x));
  const bool large = u > 0.414213562f;
  const float f = large ? __fmaf_rn(0.5f, u, -0.5f) : u;
  return __fadd_rn(large ? 0.693147181f : 0.0f, __fadd_rn(f, log_bend(f)));
}

// In float64 they are those of <math.h>.
__device__ inline double sigmoid(double z) { return 1 / (1 + exp(-z)); }
__device__ inline double exact_exp(double x) { return exp(x); }
__device__ inline double exact_expm1(double x) { return expm1(x); }
__device__ inline double exact_tanh(double x) { return tanh(x); }
__device__ inline double exact_log(double x) { return log(x); }
__device__ inline double log_one_plus_exp(double x) { return log1p(exp(-fabs(x))); }
