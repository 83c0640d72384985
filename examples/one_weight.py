"""One weight on its way to 1/3 ("Understanding Neural Network Backpropagation Learning Algorithm"), at five rates.

a = i w and C = (a - y)^2 with i = 1.5 and y = 0.5. Each step takes the error w - 1/3 times 1 - 4.5 r.
"""

import gpubp

RATES = {"0.1": 0.1, "2/9": 2 / 9, "0.4": 0.4, "4/9": 4 / 9, "0.5": 0.5}


def way(rate: float, steps: int) -> list[float]:
    """The weight at the start and after each step."""
    net = gpubp.MLP([1, 1], output="identity", use_bias=False, dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[0.8]]])
    optimizer, weights = gpubp.SGD(rate), [0.8]
    for _ in range(steps):
        net.train_step([[1.5]], [[0.5]], optimizer)
        weights.append(float(net.weights[0][0, 0]))
    return weights


print("    k         w   1/3 + 7/15 (11/20)^k")
for k, w in enumerate(way(0.1, 25)):
    if k <= 10 or k in (18, 25):
        print(f"{k:5}  {w:.6f}   {1 / 3 + 7 / 15 * (11 / 20) ** k:.6f}")

print("\n    r   1 - 4.5 r   w after 1, 2, 3, 10 steps")
for name, rate in RATES.items():
    weights = way(rate, 10)
    print(f"{name:>5}   {1 - 4.5 * rate:9.3f}  ", *(f"{weights[k]:9.4f}" for k in (1, 2, 3, 10)))
