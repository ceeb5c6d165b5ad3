"""Learning rates of dense training, one per iteration."""

import numpy as np

# Pairs of fractions: when a rate changes, and its new value relative to the
# peak.
_STEPS = {
    "stepped": ((0.45, 0.1), (0.9, 0.01)),
    "wide_resnet": ((0.3, 0.2), (0.6, 0.04), (0.8, 0.008)),
    "imagenet": ((1 / 3, 0.1), (2 / 3, 0.01), (8 / 9, 0.001)),
    "t5": ((2 / 5, 0.1), (3 / 5, 0.01), (4 / 5, 0.001)),
}
_WARMUP = {"imagenet": 5 / 90, "t5": 1 / 5}
SCHEDULES = ("linear", "cosine", "constant", "cyclic", *_STEPS)


def dense_rates(name, peak, steps, interval=None):
    """Returns the learning rates of a schedule.

    Args:
        name: One of `SCHEDULES`. "stepped" divides by 10 after 45 and 90% of
            the steps, as the paper does on CIFAR; "wide_resnet", "imagenet"
            and "t5" are the paper's schedules for these.
        peak: The largest rate.
        steps: Number of iterations.
        interval: For "cyclic", the iterations between restarts.

    Returns:
        float64 array of `steps` rates.
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"`schedule` must be one of {', '.join(SCHEDULES)}. "
            f"Received: schedule={name!r}"
        )
    step = np.arange(steps)
    match name:
        case "linear":
            return peak * (1 - step / steps)
        case "cosine":
            return peak * (1 + np.cos(np.pi * step / steps)) / 2
        case "constant":
            return np.full(steps, float(peak))
        case "cyclic":
            return peak * (1 - step % interval / interval)
    rates = np.full(steps, float(peak))
    for share, factor in _STEPS[name]:
        rates[int(share * steps) :] = peak * factor
    warmup = int(_WARMUP.get(name, 0) * steps)
    rates[:warmup] = peak * (1 + np.arange(warmup)) / max(warmup, 1)
    return rates
