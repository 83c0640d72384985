// Optimizers: one step of one parameter p with gradient g, and what is done to gradients and weights before it.
#pragma once
#include "portable.cuh"

template <typename T>
__device__ inline void add_decay(T& g, T w, T decay) {
  g = g + decay * w;
}

template <typename T>
__device__ inline void scale_weights(T& w, T factor) {
  w = w * factor;
}

template <typename T>
__device__ inline void squared_norm(T g, T& total) {
  total += g * g;
}

// total is the squared norm of all gradients.
template <typename T>
__device__ inline void clip_gradient(T& g, T total, T limit) {
  g = g * smaller(limit / sqrt(larger(total, tiny<T>())), T(1));
}

template <typename T>
__device__ inline void sgd(T& p, T g, T rate) {
  p = p - rate * g;
}

template <typename T>
__device__ inline void sgd_momentum(T& p, T& v, T g, T rate, T momentum) {
  v = momentum * v + g;
  p = p - rate * v;
}

template <typename T>
__device__ inline void sgd_nesterov(T& p, T& v, T g, T rate, T momentum) {
  v = momentum * v + g;
  p = p - rate * (momentum * v + g);
}

// Of a mean over the steps, of which `keep` stays and `rest` is new.
template <typename T>
__device__ inline T mean(T old, T now, T keep, T rest) {
  return keep * old + rest * now;
}

template <typename T>
__device__ inline void rmsprop(T& p, T& v, T g, T rate, T keep, T rest, T epsilon) {
  v = mean(v, g * g, keep, rest);
  p = p - rate * (g / (sqrt(v) + epsilon));
}

template <typename T>
__device__ inline void adagrad(T& p, T& v, T g, T rate, T epsilon) {
  v = v + g * g;
  p = p - rate * (g / (sqrt(v) + epsilon));
}

// rate and root carry the bias corrections: rate / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
template <typename T>
__device__ inline void adam(T& p, T& m, T& v, T g, T rate, T beta1, T rest1, T beta2, T rest2, T epsilon, T root) {
  m = mean(m, g, beta1, rest1);
  v = mean(v, g * g, beta2, rest2);
  p = p - rate * (m / (sqrt(v) * root + epsilon));
}
