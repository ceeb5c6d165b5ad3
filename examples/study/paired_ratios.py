"""Times things in turns, and computes statistics of their ratios.

Other load on the machine affects both of a pair, and so not their ratio. The
median is robust to load that affects only one of them.
"""

import numpy as np


def take_turns(things, rounds, seconds_of):
    """Times all things in each round, in a random order.

    The first has its turn before and after each of the others, which is
    compared with both, so that a drift of the machine cancels.

    Args:
        things: Dict name -> thing.
        rounds: How many turns each of the others has.
        seconds_of: Callable thing -> seconds.

    Returns:
        Two dicts, name -> list: of seconds, and of speedups relative to the
        first.
    """
    rng = np.random.default_rng(0)
    (reference, first), *others = things.items()
    seconds = {name: [] for name in things}
    times_as_fast = {name: [] for name, _ in others}
    before = seconds_of(first)
    for _ in range(rounds):
        for i in rng.permutation(len(others)):
            name, thing = others[i]
            took, after = seconds_of(thing), seconds_of(first)
            times_as_fast[name].append((before * after) ** 0.5 / took)
            seconds[name].append(took)
            seconds[reference].append(after)
            before = after
    return seconds, times_as_fast


def bootstrap(ratios, draws=10_000):
    """Returns the 95% interval of the median."""
    rng = np.random.default_rng(0)
    samples = rng.choice(ratios, (draws, len(ratios)))
    return np.quantile(np.median(samples, axis=1), [0.025, 0.975])


def described(ratios):
    """Returns two table cells: median with 95% interval, and quartiles."""
    low, high = bootstrap(ratios)
    first, third = np.quantile(ratios, [0.25, 0.75])
    return (
        f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}] | "
        f"{first:.3f}, {third:.3f}"
    )


def table(seconds, times_as_fast, images):
    """Returns Markdown: a row for each thing, with `images` per turn."""
    reference, *_ = seconds
    lines = [
        f"| | images/s | of {reference}, median [95% interval] | quartiles |",
        "|---|---|---|---|",
    ]
    for name, found in seconds.items():
        ratios = "1 | "
        if name in times_as_fast:
            ratios = described(times_as_fast[name])
        lines.append(f"| {name} | {images / np.median(found):.0f} | {ratios} |")
    return "\n".join(lines)
