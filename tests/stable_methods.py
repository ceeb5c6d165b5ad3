"""The pruning-stable methods in NumPy, written from their definitions.

They share no code with the project. There is one kernel of shape (out, in), and
each step takes the full batch.
"""

import numpy as np
from regression_problem import RATE
from regression_problem import STEPS_PER_EPOCH
from regression_problem import problem


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


def without_smallest(values, count):
    """False at the `count` smallest; for ties, at the first ones."""
    kept = np.ones(values.size, bool)
    kept[np.argsort(values, axis=None, kind="stable")[:count]] = False
    return kept.reshape(values.shape)


def largest(values, count):
    """True at the `count` largest."""
    return without_smallest(values, values.size - count)


class Method:
    """Plain training, which the methods change.

    Attributes:
        stored: Trained arrays by name, including "w".
        decayed: Names of arrays with weight decay.
    """

    decayed = ("w",)

    def __init__(self, start, steps, decay, **options):
        self.stored = {"w": start.copy()}
        self.velocity = {}
        self.steps, self.decay = steps, decay
        self.mask = np.ones(start.shape, bool)
        for name, value in options.items():
            setattr(self, name, value)
        self.begin()

    def begin(self):
        """Initializes other trained arrays."""

    def forward(self, i):
        """Returns the kernel that step i, from 1, computes with."""
        return self.stored["w"]

    def gradients(self, g, i):
        """Returns gradients of stored arrays from that of the kernel."""
        return {"w": g}

    def after(self, i):
        """Updates the state after step i."""

    def final(self):
        return self.stored["w"] * self.mask


class Gradual(Method):
    target_sparsity, interval = 0.5, 2

    def due(self, i):
        """Returns the sparsity of the pruning after step i, or `None`."""
        epochs, rest = divmod(i, STEPS_PER_EPOCH)
        last = self.steps // STEPS_PER_EPOCH // self.interval - 1
        number, between = divmod(epochs, self.interval)
        if rest or between or not 1 <= number <= last:
            return None
        left = (1 - epochs / (last * self.interval)) ** 3
        return self.target_sparsity - self.target_sparsity * left

    def forward(self, i):
        return self.stored["w"] * self.mask


class GmpSoft(Gradual):
    def gradients(self, g, i):
        return {"w": g * self.mask}

    def after(self, i):
        share = self.due(i)
        if share is not None:
            w = self.stored["w"]
            self.mask = without_smallest(abs(w), round(share * w.size))
            self.velocity["w"] *= self.mask


class GmpHard(GmpSoft):
    def after(self, i):
        share = self.due(i)
        if share is not None:
            w = self.stored["w"]
            # Masked weights rank lowest, and stay masked.
            alive = np.where(self.mask, abs(w), -1)
            self.mask = without_smallest(alive, round(share * w.size))
            self.stored["w"] = w * self.mask
            self.velocity["w"] *= self.mask


class Dpf(Gradual):
    every, reached = 16, 0.0

    def after(self, i):
        w = self.stored["w"]
        if i % self.every == 0:
            self.mask = without_smallest(abs(w), round(self.reached * w.size))
        share = self.due(i)
        if share is not None:
            self.reached = share
            self.mask = without_smallest(abs(w), round(share * w.size))


class Gsm(Method):
    target_sparsity = 0.5

    def gradients(self, g, i):
        w = self.stored["w"]
        active = int((1 - self.target_sparsity) * w.size)
        return {"w": g * largest(abs(w * g), active)}

    def final(self):
        w = self.stored["w"]
        count = round(self.target_sparsity * w.size)
        return w * without_smallest(abs(w), count)


class Lc(Gsm):
    decayed = ()

    def gradients(self, g, i):
        w = self.stored["w"]
        kept = largest(abs(w), int((1 - self.target_sparsity) * w.size))
        return {"w": g + self.decay * w * ~kept}


class Dnw(Method):
    target_sparsity = 0.5

    def forward(self, i):
        w = self.stored["w"]
        count = int(self.target_sparsity * w.size)
        return w * (abs(w) > np.sort(abs(w), axis=None)[count - 1])

    def final(self):
        return self.forward(None)


class Str(Method):
    decayed = ("w", "s")
    s_init = -2.0

    def begin(self):
        self.stored["s"] = np.array(self.s_init)

    def forward(self, i):
        w = self.stored["w"]
        return np.sign(w) * np.maximum(abs(w) - sigmoid(self.stored["s"]), 0)

    def gradients(self, g, i):
        w, threshold = self.stored["w"], sigmoid(self.stored["s"])
        active = abs(w) > threshold
        slope = threshold * (1 - threshold)
        return {"w": active * g, "s": -(g * np.sign(w) * active).sum() * slope}

    def final(self):
        return self.forward(None)


class Cs(Method):
    s_init, penalty, beta_final = 0.05, 0.001, 300

    def begin(self):
        self.stored["s"] = np.full(self.stored["w"].shape, self.s_init)

    def beta(self, i):
        return self.beta_final ** ((i - 1) / self.steps)

    def forward(self, i):
        gate = sigmoid(self.beta(i) * self.stored["s"])
        return self.stored["w"] * gate / sigmoid(self.s_init)

    def gradients(self, g, i):
        beta = self.beta(i)
        gate = sigmoid(beta * self.stored["s"])
        slope = beta * gate * (1 - gate)
        scale = sigmoid(self.s_init)
        return {
            "w": g * gate / scale,
            "s": (g * self.stored["w"] / scale + self.penalty) * slope,
        }

    def final(self):
        return np.where(self.stored["s"] > 0, self.forward(self.steps + 1), 0)


class Dst(Method):
    alpha = 0.05
    resets = 0

    def begin(self):
        self.stored["t"] = np.zeros((2, 1))

    def forward(self, i):
        w, t = self.stored["w"], self.stored["t"]
        if (abs(w) > t).mean() <= 0.01:
            self.resets += 1
            t[:] = 0
        return w * (abs(w) > t)

    def gradients(self, g, i):
        w, t = self.stored["w"], self.stored["t"]
        x = abs(w) - t
        h = np.select(
            [abs(x) <= 0.4, abs(x) <= 1], [2 - 4 * abs(x), 0.4], default=0
        )
        return {
            "w": g * (x > 0) + g * w * h * np.sign(w),
            "t": -(g * w * h).sum(1, keepdims=True) - self.alpha * np.exp(-t),
        }

    def final(self):
        return self.stored["w"] * (abs(self.stored["w"]) > self.stored["t"])


METHODS = {
    "sgd": Method,
    "gmp_soft": GmpSoft,
    "gmp_hard": GmpHard,
    "dpf": Dpf,
    "gsm": Gsm,
    "lc": Lc,
    "dnw": Dnw,
    "str": Str,
    "cs": Cs,
    "dst": Dst,
}


def train(name, weight_decay=0.0, steps=40, momentum=0.9, **options):
    """Returns weights after each step, (steps + 1, 2, 10), and the method."""
    x, y, start = problem()
    method = METHODS[name](start, steps, weight_decay, **options)
    rows = [method.stored["w"].copy()]
    for i in range(1, steps + 1):
        error = x @ method.forward(i).T - y
        found = method.gradients(2 * error.T @ x / error.size, i)
        for key, value in method.stored.items():
            total = found[key]
            if key in method.decayed:
                total = total + weight_decay * value
            v = momentum * method.velocity.get(key, 0.0) + total
            method.velocity[key] = v
            step = total + momentum * v if weight_decay else v
            method.stored[key] = value - RATE * step
        rows.append(method.stored["w"].copy())
        method.after(i)
    return np.array(rows), method
