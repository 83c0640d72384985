// Losses: of each row the loss, not weighted, and the derivative times the row's factor w. The functions named after an
// output activation too begin at its logits z + b, write its output y, and stay finite where the two in turn would not.
// The argument `do` is called do_ here: the other is a word of C++.
#pragma once
#include "activations.cuh"

template <typename T>
__device__ inline void weighted_sum(T loss, T w, T& total) {
  total += w * loss;
}

template <typename T>
__device__ inline void weight_sum(T w, T& total) {
  total += w;
}

template <typename T>
__device__ inline void weight_factor(T w, T total, T& factor) {
  factor = w / larger(total, tiny<T>());
}

template <typename T, typename Team>
__device__ inline void squared_error(Team team, const T* o, const T* t, T w, T factor, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T e = o[j] - t[j];
    sum += e * e;
    do_[j] = e * w * (T(2) * factor);
  }
  loss = factor * team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void absolute_error(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T e = o[j] - t[j];
    sum += fabs(e);
    do_[j] = w * by_sign(e, T(1), T(-1));
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void huber(Team team, const T* o, const T* t, T w, T delta, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T e = o[j] - t[j];
    const T slope = smaller(larger(e, -delta), delta);
    sum += (e - slope * T(0.5)) * slope;
    do_[j] = w * slope;
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void quantile(Team team, const T* o, const T* t, T w, T q, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T e = o[j] - t[j];
    const T slope = by_sign(e, T(1) - q, -q);
    sum += e * slope;
    do_[j] = w * slope;
  }
  loss = team.sum(sum);
}

// An output that rounded to the end of its range is taken as the number next to it, so that the loss stays finite.
template <typename T, typename Team>
__device__ inline void poisson(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T rate = larger(o[j], tiny<T>()), count = t[j];
    sum += o[j] - count * log(rate);
    do_[j] = w * (T(1) - count / rate);
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void exp_poisson(Team team, const T* z, const T* b, const T* t, T w, T* y, T* dz, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T logit = z[j] + b[j], rate = exp(logit), count = t[j];
    sum += rate - logit * count;
    y[j] = rate;
    dz[j] = w * (rate - count);
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void binary_cross_entropy(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T p = larger(o[j], tiny<T>()), q = larger(T(1) - o[j], tiny<T>()), yes = t[j], no = T(1) - t[j];
    sum -= yes * log(p) + no * log(q);
    do_[j] = w * (no / q - yes / p);
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void sigmoid_cross_entropy(Team team, const T* z, const T* b, const T* t, T w, T* y, T* dz, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T logit = z[j] + b[j], p = sigmoid(logit), yes = t[j];
    sum += larger(logit, T(0)) - logit * yes + log_one_plus_exp(logit);
    y[j] = p;
    dz[j] = w * (p - yes);
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void cross_entropy(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  T sum = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T p = larger(o[j], tiny<T>()), target = t[j];
    sum -= target * log(p);
    do_[j] = w * -(target / p);
  }
  loss = team.sum(sum);
}

template <typename T, typename Team>
__device__ inline void softmax_cross_entropy(Team team, const T* z, const T* b, const T* t, T w, T* y, T* dz, T& loss) {
  const T most = largest_logit(team, z, b);
  T sum = T(0), of_targets = T(0);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T logit = z[j] + b[j] - most;
    sum += exp(logit);
    of_targets += logit * t[j];
  }
  sum = team.sum(sum);
  loss = log(sum) - team.sum(of_targets);
  for (Size j = team.lane; j < team.width; j += Team::lanes) {
    const T p = exp(z[j] + b[j] - most) / sum, target = t[j];
    y[j] = p;
    dz[j] = w * (p - target);
  }
}
