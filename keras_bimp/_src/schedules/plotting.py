"""Plot several schedules."""

from collections.abc import Iterable
from collections.abc import Mapping

from keras_bimp._src.schedules.schedule import Schedule


def plot(schedules, ax=None):
    """Plot schedules into one figure, with a legend. Needs matplotlib.

    Args:
        schedules: A schedule of this package, a list of schedules, or a dict
            from label to schedule. Labels default to the class names.
        ax: Matplotlib axes. Defaults to those of a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: If an entry is not a schedule of this package.
        ValueError: If there are no schedules.

    Example:

    ```python
    original = [0.1] * 900 + [0.01] * 100
    ax = keras_bimp.schedules.plot(
        [
            keras_bimp.schedules.LLR(0.1, steps=1000),
            keras_bimp.schedules.CLR(original, steps=1000),
        ]
    )
    ax.figure.savefig("schedules.png")
    ```
    """
    if isinstance(schedules, Schedule):
        schedules = [schedules]
    if isinstance(schedules, Mapping):
        labelled = list(schedules.items())
    elif isinstance(schedules, Iterable):
        labelled = [(type(s).__name__, s) for s in schedules]
    else:
        labelled = [(type(schedules).__name__, schedules)]
    if not labelled:
        raise ValueError(
            "`schedules` must hold at least one schedule. "
            f"Received: schedules={schedules!r}"
        )
    for label, schedule in labelled:
        if not isinstance(schedule, Schedule):
            raise TypeError(
                "`schedules` must be schedules of keras_bimp; convert others "
                "by `schedules.Recorded((schedule, steps))`. "
                f"Received: {label}: {schedule!r}"
            )
    for label, schedule in labelled:
        ax = schedule.plot(ax, label=label)
    ax.legend()
    return ax
