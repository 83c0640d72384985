// Activations: the function of z + b, and dz = dy f', with f' from what the activation saves, at a kink the left one.
#pragma once
#include "exact.cuh"

template <typename T>
__device__ inline void bias_identity(T z, T b, T& y) {
  y = z + b;
}

template <typename T>
__device__ inline void bias_sigmoid(T z, T b, T& y) {
  y = sigmoid(z + b);
}

template <typename T>
__device__ inline void sigmoid_delta(T dy, T y, T& dz) {
  dz = dy * ((T(1) - y) * y);
}

// The sigmoid by CUDA's exp and division in hardware, which there are in float32 only; its manual allows this exp an error
// of 2 + 1.2 |z| units in the last place.
#ifdef __CUDACC__
__device__ inline float fast_sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }
#else
inline float fast_sigmoid(float z) { return sigmoid(z); }
#endif
__device__ inline double fast_sigmoid(double z) { return sigmoid(z); }

template <typename T>
__device__ inline void bias_fast_sigmoid(T z, T b, T& y) {
  y = fast_sigmoid(z + b);
}

template <typename T>
__device__ inline void bias_tanh(T z, T b, T& y) {
  y = exact_tanh(z + b);
}

template <typename T>
__device__ inline void tanh_delta(T dy, T y, T& dz) {
  dz = dy * ((T(1) - y) * (T(1) + y));
}

template <typename T>
__device__ inline void bias_relu(T z, T b, T& y) {
  y = larger(z + b, T(0));
}

template <typename T>
__device__ inline void relu_delta(T dy, T y, T& dz) {
  dz = dy * by_sign(y, T(1), T(-1));  // y >= 0, so the sign is the derivative
}

template <typename T>
__device__ inline void bias_leaky_relu(T z, T b, T slope, T& y) {
  z = z + b;
  y = z > T(0) ? z : slope * z;
}

template <typename T>
__device__ inline void leaky_relu_delta(T dy, T y, T slope, T& dz) {
  dz = dy * (y > T(0) ? T(1) : y != y ? y : slope);
}

template <typename T>
__device__ inline void bias_elu(T z, T b, T scale, T alpha, T& y) {
  z = z + b;
  y = scale * (z > T(0) ? z : alpha * exact_expm1(z));
}

template <typename T>
__device__ inline void elu_delta(T dy, T y, T scale, T alpha, T& dz) {
  dz = dy * (y > T(0) ? scale : y + scale * alpha);
}

template <typename T>
__device__ inline void bias_softplus(T z, T b, T& y) {
  z = z + b;
  y = larger(z, T(0)) + log_one_plus_exp(z);
}

template <typename T>
__device__ inline void softplus_delta(T dy, T y, T& dz) {
  dz = dy * -exact_expm1(-y);  // the sigmoid of z is 1 - e^-y
}

template <typename T>
__device__ inline void bias_silu(T& z, T b, T& y) {
  z = z + b;
  y = z * sigmoid(z);
}

template <typename T>
__device__ inline void silu_delta(T dy, T z, T& dz) {
  const T s = sigmoid(z);
  dz = dy * (s * (T(1) + z * (T(1) - s)));
}

// (1 + tanh u) / 2, which is the sigmoid of 2 u = 2 sqrt(2 / pi) (z + 0.044715 z^3).
template <typename T>
__device__ inline T gelu_gate(T z) {
  return sigmoid(z * (T(1.5957691216057308) + T(0.07135481627260025) * (z * z)));
}

template <typename T>
__device__ inline void bias_gelu(T& z, T b, T& y) {
  z = z + b;
  y = z * gelu_gate(z);
}

template <typename T>
__device__ inline void gelu_delta(T dy, T z, T& dz) {
  const T s = gelu_gate(z);
  // z times the derivative of 2 u, cut off where z^3 may overflow and s is 0 or 1 to the last bit.
  T slope = z * (T(1.5957691216057308) + T(0.21406444881780076) * (z * z));
  slope = smaller(larger(slope, T(-10000)), T(10000));
  dz = dy * (s * (T(1) + (T(1) - s) * slope));
}

template <typename T>
__device__ inline void bias_exp(T z, T b, T& y) {
  y = exact_exp(z + b);
}

template <typename T>
__device__ inline void exp_delta(T dy, T y, T& dz) {
  dz = dy * y;
}

// The largest of z + b in a row.
template <typename T, typename Team>
__device__ inline T largest_logit(Team team, const T* z, const T* b) {
  return row_max(team, [&](Size j) { return z[j] + b[j]; });
}

template <typename T, typename Team>
__device__ inline void bias_softmax(Team team, const T* z, const T* b, T* y) {
  const T most = largest_logit(team, z, b);
  const T sum = row_sum(team, [&](Size j) { return y[j] = exact_exp(z[j] + b[j] - most); });
  each_column(team, [&](Size j) { y[j] = y[j] / sum; });
}

template <typename T, typename Team>
__device__ inline void softmax_delta(Team team, const T* dy, const T* y, T* dz) {
  const T sum = row_sum(team, [&](Size j) { return dy[j] * y[j]; });
  each_column(team, [&](Size j) { dz[j] = y[j] * (dy[j] - sum); });
}
