"""`select`: choose which weights stay, as a pure function of arrays."""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from keras_bimp._src.kernel_layout import Layout
from keras_bimp._src.selection.allotments import Allocation
from keras_bimp._src.selection.choosing import choose
from keras_bimp._src.selection.criteria import Criterion
from keras_bimp._src.selection.granularities import Granularity
from keras_bimp._src.selection.granularities import Unit
from keras_bimp._src.selection.policy import as_policy
from keras_bimp._src.selection.structures import Part
from keras_bimp._src.selection.structures import Structures


def select(
    kernels: Sequence[np.ndarray],
    sparsity: float,
    *,
    allocation: str | Callable | Allocation | None = None,
    criterion: str | Callable | Criterion = "magnitude",
    granularity: str | Granularity = "weight",
    masks: Sequence[np.ndarray] | None = None,
    on_collapse: str = "protect",
    max_layer_sparsity: float | Sequence[float | None] | None = None,
    layer_sparsity: Sequence[float | None] | None = None,
    gradients: Sequence[np.ndarray] | None = None,
    layouts: Sequence[Layout] | None = None,
    groups: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Select the weights to keep.

    A criterion gives every weight a score. A granularity says what is pruned
    as one unit. An allocation says how many units each kernel keeps; the
    highest scores stay. Counts are exact. Among equal scores the lower index
    is pruned first: kernels in order, entries of a kernel in row-major order.
    -0.0 equals 0. Half precision and bfloat16 are ranked in float32.

    Args:
        kernels: Arrays in Keras layout, in model order.
        sparsity: Float in [0, 1). The fraction of the units of all kernels
            that is pruned after the call.
        allocation: One of

            - `"global"`: the highest scores across all kernels stay
            - `"uniform"`: the same sparsity in every kernel
            - `"uniform_plus"`: uniform, except that the first convolution
              stays dense and the last dense layer keeps a fifth
            - `"erk"`: Erdos-Renyi-Kernel, small kernels stay denser
            - `"lamp"`: global, by layer-adaptive scores
            - `"relative"`: global, by magnitude divided by the kernel's mean
              norm per output unit
            - `"coupled"`: for filters and units: uniform, but those that feed
              the same channel are pruned together, as `shrink` needs

            or a `selection.Ranking`, or a callable `(scores, sparsity)` ->
            number of units that each kernel keeps, where `scores` is a list of
            arrays with `-inf` for pruned units. Defaults to `"global"` for
            weights and blocks, `"uniform"` for filters and `"coupled"` for
            units.
        criterion: `"magnitude"`; `"random"` or `selection.Random(seed)`;
            `"saliency"`, weight times gradient; or a callable kernel ->
            scores of the same shape. The highest scores stay.
        granularity: `"weight"`; `"filter"` or `selection.Filter(norm)`, whole
            filters of convolutions; `"unit"` or `selection.Unit(norm)`, whole
            units of any layer: filters, units of dense and recurrent layers,
            attention heads; `"2:4"` or `selection.NM(2, 4)`, 2 of 4 weights
            along the inputs; `"1x4"` or `selection.Block((4, 1))`, blocks of
            4 inputs x 1 output. Kernels that it does not apply to are left
            unchanged and do not count.
        masks: Boolean arrays, True where a weight is not pruned yet. Pruned
            weights stay pruned. Defaults to nothing pruned.
        on_collapse: What to do if a kernel would keep fewer weights than it
            has output units (no filter, with filters). `"protect"`: it keeps
            its best weights up to that number, and other kernels lose more,
            so that the total stays exact; `"raise"` a ValueError; or
            `"ignore"`.
        max_layer_sparsity: Float in [0, 1), the highest sparsity of any
            kernel, or a sequence with one per kernel, `None` for no limit.
            Other kernels lose more, so that the total stays exact.
        layer_sparsity: Sequence with one float in [0, 1) or `None` per kernel.
            A float fixes the sparsity of the kernel and overrides the
            allocation. Other kernels compensate.
        gradients: For `"saliency"`: arrays of the kernels' shapes.
        layouts: A `selection.Layout` per kernel: which axes are inputs and
            which are outputs. By default the last axis is the output, the one
            before it the input, and kernels with 3 or more axes are
            convolutions.
        groups: For `"coupled"`: one array per kernel, with one integer per
            filter. Filters with the same number are pruned together, also
            across kernels. For units: per kernel an array of integers that
            broadcasts to it, or a list of such arrays. Weights with the same
            number form one unit, also across kernels; those with a negative
            number are never pruned. `prune` and `callbacks` find the groups in
            the model.

    Returns:
        Boolean arrays of the kernels' shapes, True = kept.

    Raises:
        ValueError: If an argument is invalid, arguments are incompatible, a
            weight is not finite, nothing would be left, the bounds cannot be
            met, or a kernel collapses and `on_collapse` is `"raise"`.

    Example:

    >>> kernels = [np.array([[0.1, -3.0], [0.2, 2.0]]), np.array([[1.0]])]
    >>> [mask.tolist() for mask in keras_bimp.select(kernels, 0.4)]
    [[[False, True], [False, True]], [[True]]]

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Appendix C.2.
    """
    policy = as_policy(
        allocation,
        criterion,
        granularity,
        on_collapse,
        max_layer_sparsity,
        layer_sparsity,
    )
    kernels = [np.asarray(kernel) for kernel in kernels]
    masks, gradients, layouts = (
        None if given is None else list(given)
        for given in (masks, gradients, layouts)
    )
    for kernel in kernels:
        if kernel.dtype.kind in "cOSUMm":
            raise ValueError(
                "`kernels` must be arrays of real numbers. "
                f"Received: an array of dtype {kernel.dtype}"
            )
    shapes = [kernel.shape for kernel in kernels]
    if masks is None:
        masks = [np.ones(shape, bool) for shape in shapes]
    for name, arrays in (("masks", masks), ("gradients", gradients)):
        if arrays is not None and [np.shape(a) for a in arrays] != shapes:
            raise ValueError(
                f"`{name}` must hold one array of the kernel's shape per "
                f"kernel. Received: kernels of shapes {shapes}, {name} of "
                f"shapes {[np.shape(a) for a in arrays]}"
            )
    if layouts is not None and (
        len(layouts) != len(kernels)
        or not all(isinstance(layout, Layout) for layout in layouts)
    ):
        raise ValueError(
            "`layouts` must hold one `selection.Layout` per kernel. "
            f"Received: layouts={layouts} for {len(kernels)} kernels"
        )
    if policy.criterion.needs_gradients and gradients is None:
        raise ValueError(
            "`gradients` must be given for this criterion: the gradients of "
            "the loss with respect to the kernels. Received: gradients=None"
        )
    if gradients is not None and not policy.criterion.needs_gradients:
        raise ValueError(
            "`gradients` must not be given for this criterion, which does not "
            f"use them. Received: criterion={criterion!r}"
        )
    needed = getattr(policy.allocation, "needs_groups", False)
    units = isinstance(policy.granularity, Unit)
    if (needed and groups is None) or (
        groups is not None and not needed and not units
    ):
        raise ValueError(
            "`groups` must be given for allocation='coupled', is optional "
            "with granularity='unit', and must not be given otherwise. It says "
            f"which units are pruned together. Received: groups={groups!r}"
        )
    if groups is not None:
        groups = (_structures if units else _checked)(groups, kernels, layouts)
    chosen = choose(
        kernels,
        policy.check_target("sparsity", sparsity),
        policy,
        masks=[np.asarray(mask, bool) for mask in masks],
        layouts=layouts,
        gradients=gradients,
        groups=groups,
    )
    return chosen.masks


def _structures(groups, kernels, layouts):
    groups = [
        [np.asarray(g) for g in (group if isinstance(group, list) else [group])]
        for group in groups
    ]
    if len(groups) != len(kernels) or not all(
        group.dtype.kind in "iu" and _broadcasts(group.shape, kernel.shape)
        for some, kernel in zip(groups, kernels, strict=False)
        for group in some
    ):
        raise ValueError(
            "`groups` must hold an array of integers for each kernel that "
            "broadcasts to it, or a list of such arrays. Received: groups of "
            f"shapes {[[g.shape for g in some] for some in groups]} for "
            f"kernels of shapes {[kernel.shape for kernel in kernels]}"
        )
    return Structures([[Part(group) for group in some] for some in groups])


def _broadcasts(shape, to):
    return len(shape) <= len(to) and all(
        n in (1, size) for n, size in zip(shape[::-1], to[::-1], strict=False)
    )


def _checked(groups, kernels, layouts):
    groups = [np.asarray(group) for group in groups]
    if layouts is None:
        layouts = [Layout.of_shape(kernel.shape) for kernel in kernels]
    sizes = [
        (layout.output_units(kernel.shape),)
        for kernel, layout in zip(kernels, layouts, strict=True)
    ]
    shapes = [group.shape for group in groups]
    if shapes != sizes or any(group.dtype.kind not in "iu" for group in groups):
        raise ValueError(
            "`groups` must hold one array of integers per kernel, with one "
            f"integer per filter. Received: arrays of shapes {shapes} for "
            f"kernels of {sizes} filters"
        )
    return groups
