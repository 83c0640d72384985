// What layers do beside their activations: masked weights, rounded copies and dropout.
#pragma once
#include "portable.cuh"

template <typename T>
__device__ inline void mask_gradient(T& g, T mask) {
  g = g * mask;
}

// As another type, which the arguments see to.
template <typename T>
__device__ inline void cast(T x, T& y) {
  y = x;
}

// Murmur3's 32-bit finalizer, modulo 2^32.
__device__ inline unsigned mix(unsigned bits) {
  bits = (bits ^ bits >> 16) * 0x85EBCA6B;
  bits = (bits ^ bits >> 13) * 0xC2B2AE35;
  return bits ^ bits >> 16;
}

template <typename T>
__device__ inline void dropout(T x, unsigned row, unsigned column, unsigned key, unsigned threshold, T scale, T& y) {
  y = mix(row + column + key) < threshold ? T(0) : x * scale;
}
