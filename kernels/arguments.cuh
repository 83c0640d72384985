// The arguments of a kernel: how each gives the values of V neighbouring elements (load, store), and those of a row (take, put).
//
// Elements are counted row by row through a matrix of `width` columns. Each argument is one pointer or one number, so that a launch
// passes it as such.
#pragma once
#include "portable.cuh"

// bfloat16: the upper half of a float, in memory only. Device functions compute in float.
struct Half {
  unsigned short bits;
};

__device__ inline float widened(Half half) { return __uint_as_float(unsigned(half.bits) << 16); }

// To the nearest, and of two to the even one; every NaN becomes the same, which rounding might turn into an infinity.
__device__ inline Half halved(float value) {
  unsigned short rounded;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
#else
  const unsigned bits = __float_as_uint(value);
  rounded = value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
  return {rounded};
}

// What is computed with of what is stored.
template <typename S>
struct Computed {
  using Type = S;
};
template <>
struct Computed<Half> {
  using Type = float;
};

// V neighbouring values, moved in accesses of at most 16 bytes: four floats, two doubles or eight halves in one.
template <typename T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack {
  T v[V];
};

template <int V, typename S>
__device__ inline Pack<typename Computed<S>::Type, V> loaded(const S* at) {
  const auto pack = *reinterpret_cast<const Pack<S, V>*>(at);
  if constexpr (sizeof(S) == sizeof(typename Computed<S>::Type)) {
    return pack;
  } else {
    Pack<float, V> wide;
#pragma unroll
    for (int k = 0; k < V; ++k) wide.v[k] = widened(pack.v[k]);
    return wide;
  }
}

template <int V, typename S, typename T>
__device__ inline void stored(S* at, const Pack<T, V>& pack) {
  if constexpr (sizeof(S) == sizeof(T)) {
    *reinterpret_cast<Pack<S, V>*>(at) = pack;
  } else {
    Pack<S, V> narrow;
#pragma unroll
    for (int k = 0; k < V; ++k) narrow.v[k] = halved(pack.v[k]);
    *reinterpret_cast<Pack<S, V>*>(at) = narrow;
  }
}

template <int V, typename T>
__device__ inline Pack<T, V> all(T value) {
  Pack<T, V> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) pack.v[k] = value;
  return pack;
}

// A quotient and a remainder, in 32 bits where they suffice: in 64 they cost four times the instructions.
struct Place {
  Size row, column;
};
__device__ inline Place place(Size i, Size width) {
  if (((i | width) >> 32) == 0) return {unsigned(i) / unsigned(width), unsigned(i) % unsigned(width)};
  return {i / width, i % width};
}

// An array of the elements themselves, read.
template <typename T>
struct In {
  const T* at;
  using C = typename Computed<T>::Type;
  template <int V>
  __device__ Pack<C, V> load(Size i, Size) const { return loaded<V>(at + i); }
  template <int V>
  __device__ void store(Size, const Pack<C, V>&) const {}
  __device__ const T* take(Size row, Size width) const { return at + row * width; }
  __device__ void put(Size, const T*) const {}
};

// The same, written.
template <typename T>
struct Out {
  T* at;
  using C = typename Computed<T>::Type;
  template <int V>
  __device__ Pack<C, V> load(Size, Size) const { return all<V>(C(0)); }
  template <int V>
  __device__ void store(Size i, const Pack<C, V>& pack) const { stored<V>(at + i, pack); }
  __device__ T* take(Size row, Size width) const { return at + row * width; }
  __device__ void put(Size, T*) const {}
};

// The same, read and written.
template <typename T>
struct InOut {
  T* at;
  using C = typename Computed<T>::Type;
  template <int V>
  __device__ Pack<C, V> load(Size i, Size) const { return loaded<V>(at + i); }
  template <int V>
  __device__ void store(Size i, const Pack<C, V>& pack) const { stored<V>(at + i, pack); }
};

// One row (width,) that is every row's, such as a bias.
template <typename T>
struct Row {
  const T* at;
  template <int V>
  __device__ Pack<T, V> load(Size i, Size width) const {
    Size column = place(i, width).column;
    if (width % V == 0) return *reinterpret_cast<const Pack<T, V>*>(at + column);
    Pack<T, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      pack.v[k] = at[column];
      column = column + 1 == width ? 0 : column + 1;
    }
    return pack;
  }
  template <int V>
  __device__ void store(Size, const Pack<T, V>&) const {}
  __device__ const T* take(Size, Size) const { return at; }
  __device__ void put(Size, const T*) const {}
};

// One value a row, (rows, 1), read.
template <typename T>
struct Column {
  const T* at;
  template <int V>
  __device__ Pack<T, V> load(Size i, Size width) const {
    Place here = place(i, width);
    Pack<T, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      pack.v[k] = at[here.row];
      if (++here.column == width) here = {here.row + 1, 0};
    }
    return pack;
  }
  template <int V>
  __device__ void store(Size, const Pack<T, V>&) const {}
  __device__ T take(Size row, Size) const { return at[row]; }
  __device__ void put(Size, T) const {}
};

// The same, written.
template <typename T>
struct ColumnOut {
  T* at;
  __device__ T take(Size, Size) const { return T(0); }
  __device__ void put(Size row, T value) const { at[row] = value; }
};

// One value on the device for all elements.
template <typename T>
struct Scalar {
  const T* at;
  template <int V>
  __device__ Pack<T, V> load(Size, Size) const { return all<V>(*at); }
  template <int V>
  __device__ void store(Size, const Pack<T, V>&) const {}
  __device__ T take(Size, Size) const { return *at; }
  __device__ void put(Size, T) const {}
};

// One value that the launch passes.
template <typename T>
struct Value {
  T value;
  template <int V>
  __device__ Pack<T, V> load(Size, Size) const { return all<V>(value); }
  template <int V>
  __device__ void store(Size, const Pack<T, V>&) const {}
  __device__ T take(Size, Size) const { return value; }
  __device__ void put(Size, T) const {}
};
