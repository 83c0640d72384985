// The loops that run device functions on a CPU: what elementwise.cuh, columns.cuh, reduction.cuh and rowwise.cuh are to a GPU.
//
// Each loop does the rows top to bottom of a matrix; a thread is given some. Sums are taken in an order that the shape alone decides.
// Compiled with -ffp-contract=off, -fno-math-errno and -fno-trapping-math, which leave every value as it is.
#pragma once
#include "portable.cuh"

// An argument as it is passed.
union Word {
  void* at;
  float float_;
  double double_;
  unsigned unsigned_;
  Size size;
};
inline void read(Word word, float& value) { value = word.float_; }
inline void read(Word word, double& value) { value = word.double_; }
inline void read(Word word, unsigned& value) { value = word.unsigned_; }

// How each argument gives its element i, which is in this row and column; or a row of its elements.
template <typename T>
struct In {
  const T* from;
  explicit In(Word word) : from(static_cast<const T*>(word.at)) {}
  const T& at(Size i, Size, Size) const { return from[i]; }
  const T* take(Size row, Size width) const { return from + row * width; }
  void put(Size, const T*) const {}
};

template <typename T>
struct Out {
  T* to;
  explicit Out(Word word) : to(static_cast<T*>(word.at)) {}
  T& at(Size i, Size, Size) const { return to[i]; }
  T* take(Size row, Size width) const { return to + row * width; }
  void put(Size, T*) const {}
};

template <typename T>
struct InOut : Out<T> {
  using Out<T>::Out;
};

template <typename T>
struct Row {
  const T* from;
  explicit Row(Word word) : from(static_cast<const T*>(word.at)) {}
  const T& at(Size, Size, Size column) const { return from[column]; }
  const T* take(Size, Size) const { return from; }
  void put(Size, const T*) const {}
};

template <typename T>
struct Column {
  const T* from;
  explicit Column(Word word) : from(static_cast<const T*>(word.at)) {}
  const T& at(Size, Size row, Size) const { return from[row]; }
  T take(Size row, Size) const { return from[row]; }
  void put(Size, T) const {}
};

template <typename T>
struct ColumnOut {
  T* to;
  explicit ColumnOut(Word word) : to(static_cast<T*>(word.at)) {}
  T take(Size, Size) const { return T(0); }
  void put(Size row, T value) const { to[row] = value; }
};

template <typename T>
struct Value {
  T value;
  explicit Value(Word word) { read(word, value); }
  const T& at(Size, Size, Size) const { return value; }
  T take(Size, Size) const { return value; }
  void put(Size, T) const {}
};

template <typename T>
struct Scalar : Value<T> {
  explicit Scalar(Word word) : Value<T>(word) { this->value = *static_cast<const T*>(word.at); }
};

// An output may be an input's memory, element for element: no iteration needs what another has written.
template <typename Function, typename... Arguments>
inline void elementwise(Size top, Size bottom, Size width, Function function, Arguments... arguments) {
  if (width == 1) {
#pragma GCC ivdep
    for (Size i = top; i < bottom; ++i) function(arguments.at(i, i, 0)...);
    return;
  }
  for (Size row = top; row < bottom; ++row) {
    const Size first = row * width;
#pragma GCC ivdep
    for (Size column = 0; column < width; ++column) function(arguments.at(first + column, row, column)...);
  }
}

// The same, with the sums down these rows of what the function returns, its last argument.
template <typename T, typename Function, typename... Arguments>
inline void columns(Size top, Size bottom, Size width, T* sums, Function function, Arguments... arguments) {
  for (Size column = 0; column < width; ++column) sums[column] = T(0);
  for (Size row = top; row < bottom; ++row) {
    const Size first = row * width;
#pragma GCC ivdep
    for (Size column = 0; column < width; ++column) sums[column] += function(arguments.at(first + column, row, column)...);
  }
}

// Sixteen totals that take turns, added up in a tree.
template <typename T, typename Function, typename... Arguments>
inline void reduction(Size begin, Size end, T* total, Function function, Arguments... arguments) {
  T totals[16] = {};
  Size i = begin;
  for (; i + 16 <= end; i += 16)
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) function(arguments.at(i + k, i + k, 0)..., totals[k]);
  for (int k = 0; i < end; ++i, ++k) function(arguments.at(i, i, 0)..., totals[k]);
  for (int apart = 8; apart > 0; apart /= 2)
    for (int k = 0; k < apart; ++k) totals[k] += totals[k + apart];
  *total = totals[0];
}

// The only lane of a row's team.
struct Team {
  static constexpr int lanes = 1;
  static constexpr int lane = 0;
  Size width;
  template <typename T>
  T sum(T value) const {
    return value;
  }
  template <typename T>
  T max(T value) const {
    return value;
  }
};

template <typename Function, typename... Arguments>
inline void rowwise(Size top, Size bottom, Size width, Function function, Arguments... arguments) {
  for (Size row = top; row < bottom; ++row)
    [&](auto... taken) {
      function(Team{width}, taken...);
      (arguments.put(row, taken), ...);
    }(arguments.take(row, width)...);
}
