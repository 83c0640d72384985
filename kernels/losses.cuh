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
  loss = factor * row_sum(team, [&](Size j) {
    const T e = o[j] - t[j];
    do_[j] = e * w * (T(2) * factor);
    return e * e;
  });
}

template <typename T, typename Team>
__device__ inline void absolute_error(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T e = o[j] - t[j];
    do_[j] = w * by_sign(e, T(1), T(-1));
    return fabs(e);
  });
}

template <typename T, typename Team>
__device__ inline void huber(Team team, const T* o, const T* t, T w, T delta, T* do_, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T e = o[j] - t[j];
    const T slope = smaller(larger(e, -delta), delta);
    do_[j] = w * slope;
    return (e - slope * T(0.5)) * slope;
  });
}

template <typename T, typename Team>
__device__ inline void quantile(Team team, const T* o, const T* t, T w, T q, T* do_, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T e = o[j] - t[j];
    const T slope = by_sign(e, T(1) - q, -q);
    do_[j] = w * slope;
    return e * slope;
  });
}

// An output that rounded to the end of its range is taken as the number next to it, so that the loss stays finite.
template <typename T, typename Team>
__device__ inline void poisson(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T rate = larger(o[j], tiny<T>()), count = t[j], cost = o[j] - count * exact_log(rate);
    do_[j] = w * (T(1) - count / rate);
    return cost;
  });
}

template <typename T, typename Team>
__device__ inline void exp_poisson(Team team, const T* z, const T* b, const T* t, T w, T* y, T* dz, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T logit = z[j] + b[j], rate = exact_exp(logit), count = t[j];
    y[j] = rate;
    dz[j] = w * (rate - count);
    return rate - logit * count;
  });
}

template <typename T, typename Team>
__device__ inline void binary_cross_entropy(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T p = larger(o[j], tiny<T>()), q = larger(T(1) - o[j], tiny<T>()), yes = t[j], no = T(1) - t[j];
    do_[j] = w * (no / q - yes / p);
    return -(yes * exact_log(p) + no * exact_log(q));
  });
}

template <typename T, typename Team>
__device__ inline void sigmoid_cross_entropy(Team team, const T* z, const T* b, const T* t, T w, T* y, T* dz, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T logit = z[j] + b[j], p = sigmoid(logit), yes = t[j];
    y[j] = p;
    dz[j] = w * (p - yes);
    return larger(logit, T(0)) - logit * yes + log_one_plus_exp(logit);
  });
}

template <typename T, typename Team>
__device__ inline void cross_entropy(Team team, const T* o, const T* t, T w, T* do_, T& loss) {
  loss = row_sum(team, [&](Size j) {
    const T p = larger(o[j], tiny<T>()), target = t[j];
    do_[j] = w * -(target / p);
    return -(target * exact_log(p));
  });
}

// The exponentials wait in y for their sum.
template <typename T, typename Team>
__device__ inline void softmax_cross_entropy(Team team, const T* z, const T* b, const T* t, T w, T* y, T* dz, T& loss) {
  const T most = largest_logit(team, z, b);
  const T of_targets = row_sum(team, [&](Size j) {
    const T logit = z[j] + b[j] - most;
    y[j] = exact_exp(logit);
    return logit * t[j];
  });
  const T sum = row_sum(team, [&](Size j) { return y[j]; });
  loss = exact_log(sum) - of_targets;
  each_column(team, [&](Size j) {
    const T p = y[j] / sum, target = t[j];
    y[j] = p;
    dz[j] = w * (p - target);
  });
}
