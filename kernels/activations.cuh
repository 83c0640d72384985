// Activations, one function for each kernel of the same name in gpubp/activations.py: first what it reads, by value, then what it
// writes, by reference. A write may be the same element as a read. The same text compiles with NVRTC, nvcc and, with __device__
// defined away, g++; literals are T(1), since a bare 1.0 would turn a float kernel into a double one.
#pragma once

// y = 1 / (1 + exp(-(z + b)))
template <typename T>
__device__ inline void bias_sigmoid(T z, T b, T& y) {
  y = T(1) / (T(1) + exp(-(z + b)));
}

// dz = dy y (1 - y), y being the sigmoid's output
template <typename T>
__device__ inline void sigmoid_delta(T dy, T y, T& dz) {
  dz = dy * ((T(1) - y) * y);
}
