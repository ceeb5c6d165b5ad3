"""`callbacks`: pruning and retraining during `model.fit`."""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Mapping

import keras

from keras_bimp._src import selection
from keras_bimp._src.backup import Backup
from keras_bimp._src.checks import check_integer
from keras_bimp._src.checks import check_positive
from keras_bimp._src.masking import as_filter
from keras_bimp._src.plan import RETRAINING
from keras_bimp._src.plan import Plan
from keras_bimp._src.plan import check_automatic
from keras_bimp._src.plan import is_auto
from keras_bimp._src.retraining import learning_rates as optimizers
from keras_bimp._src.retraining.automatic_selection import automatic_cycles
from keras_bimp._src.retraining.automatic_selection import automatic_policy
from keras_bimp._src.retraining.prune_and_retrain import PruneAndRetrain
from keras_bimp._src.retraining.pruning import samples_for
from keras_bimp._src.retraining.rewinding import is_file_name


def callbacks(
    target_sparsity: float | Plan,
    *,
    dense_epochs: int | None = None,
    cycles: int | str = "auto",
    retraining: str | Callable = "auto",
    allocation: str | Callable | selection.Allocation | None = "auto",
    criterion: str | Callable | selection.Criterion = "magnitude",
    granularity: str | selection.Granularity = "weight",
    original=None,
    original_epochs: float | None = None,
    dense_schedule=None,
    steps_per_epoch: int | None = None,
    data=None,
    data_fraction: float = 1.0,
    rewind_to: str | os.PathLike | None = None,
    on_collapse: str = "protect",
    max_layer_sparsity: float | Mapping[str, float] | None = None,
    layer_sparsity: Mapping[str, float] | None = None,
    filters: str | list[str] | Callable | None = None,
    exclude: str | list[str] | Callable | None = None,
    backup_dir: str | os.PathLike | None = None,
    save_freq: str | int = "epoch",
    verbose: int = 1,
) -> list[keras.callbacks.Callback]:
    """The callbacks that prune and retrain a wrapped model during `fit`.

    `fit(epochs=E)` is the whole budget: `dense_epochs` of dense training with
    a learning rate that falls linearly to 0, then `cycles` times a pruning and
    a retraining. What is not given of that is chosen, and the plan says so.
    The largest rate is the one that the model is compiled with; after the run
    the optimizer has it back.

    The paper's method, as plain as can be, is `callbacks(target, dense_epochs=
    E // 2, cycles=1, retraining="allr", allocation="global")`.

    List the callbacks before those that write logs. To these they add
    `sparsity`, `learning_rate` and `cycle`, and of the last pruning
    `norm_drop`, `d1`, `d2` and `discount` (see `schedules.discount_factor`).
    If `fit` has validation data that can be gone through again (no generator),
    they also add what each metric was on it just before and after that
    pruning, as `val_accuracy_before_pruning` and `val_accuracy_after_pruning`;
    NaN while nothing was pruned. That takes one more validation per pruning.

    A `fit` that ends with an exception leaves the schedule of the run in the
    optimizer; the next `fit` with these callbacks puts that right. With
    `backup_dir`, it also resumes where the previous one stopped, in the same
    program or in another.

    A `fit` whose loss or weights are no longer finite is stopped.

    If you use `EarlyStopping` or `ModelCheckpoint(save_best_only=True)` with
    these callbacks, they start comparing again at each pruning, because the
    weights of an earlier epoch would bring pruned weights back. Callbacks that
    set the learning rate are refused.

    Args:
        target_sparsity: Float in [0, 1), of all prunable weights, reached
            exactly; see `keras_bimp.prune`. Or a `Plan`, which replaces all
            arguments from `dense_epochs` to `dense_schedule`, except those of
            the selection.
        dense_epochs: Integer >= 0 and less than `fit`'s epochs; 0 says that
            the model is pretrained. Defaults to a quarter of `fit`'s epochs.
        cycles: Integer >= 1, how often to prune and retrain; or `"renda"`:
            prune 20% of what remains and retrain for as long as the original
            training, until the target is reached; or `"auto"`: 5, fewer for
            a low target and for few iterations, see `Plan.bimp`.
        retraining: How to retrain: `"allr"` (adaptive linear), `"llr"`
            (linear), `"ft"` (constant, the last rate), `"lrw"` (the last
            rates again), `"wr"` (the same, weights rewound too), `"slr"` (all
            rates, compressed), `"clr"` (cosine), `"accallr"` (adaptive, by
            accuracy; needs `data`), `"allr_d1"`, `"allr_d2"`, `"constant"`,
            `"stepped"`, `"cosine"`, `"linear"`; or a schedule, its class, or a
            callable that makes one; see `Plan.bimp`. `"auto"` is `"llr"` after
            a dense phase of less than half of the epochs, else `"allr"`.
        allocation: See `keras_bimp.select`. `"auto"` is `"lamp"` from a target
            of 0.9 on if single weights are pruned by magnitude, and otherwise
            what is usual for the granularity.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        original: Learning rates of the original training of a pretrained
            model: an array with one rate per iteration, a
            `RecordLearningRate`, or a pair `(schedule, steps)`. `"ft"`,
            `"lrw"`, `"wr"`, `"slr"`, `"clr"` and `"stepped"` need it then.
        original_epochs: Length of the original training of a pretrained model,
            for ALLR. Unknown by default; ALLR then uses `min(1, d1)`. With
            `retraining="auto"` it follows from `original` if that is given.
        dense_schedule: `LearningRateSchedule` of the dense phase. Defaults to
            a line from the peak rate to 0.
        steps_per_epoch: Integer >= 1. Needed only where the data has no known
            length.
        data: Training data for `"accallr"`, which goes through it once before
            the first pruning and once after each, and for
            `criterion="saliency"`, once before each: a tuple of arrays `(x,
            y)`, or batches, as a `tf.data.Dataset` or a `PyDataset`. Not the
            very object that `fit` shuffles: it would come in another order.
        data_fraction: Float in (0, 1], how much of `data` to use: its first
            batches.
        rewind_to: For `"wr"`. With a pretrained model the file, `.keras` or
            `.weights.h5`, of its weights when the original training had as
            many epochs to go as a cycle has; a `.keras` file may also hold
            what the optimizer remembered, else that stays as it is. With a
            dense phase a directory in which to keep these weights; defaults
            to memory, one copy of the weights and the optimizer's slots (two
            if the last cycle is longer than the others). A run that is to go
            on after a kill needs the directory.
        on_collapse: What to do when a pruning would leave a kernel fewer
            weights than it has output units: `"protect"`, `"raise"` or
            `"ignore"`; see `keras_bimp.select`.
        max_layer_sparsity: The sparsity that no kernel exceeds; see
            `keras_bimp.prune`.
        layer_sparsity: Mapping from names of kernels, or regexes, to the
            sparsity that they have at the end, whatever the allocation says;
            on the way there each follows a geometric path of its own, and
            the total gives way if it must.
        filters: Which layers to prune; see `keras_bimp.prune`.
        exclude: Which of them not to prune.
        backup_dir: Folder in which to keep all that is needed to go on after
            a crash; see `Backup`. Defaults to none.
        save_freq: How often to write there: see `Backup`.
        verbose: 0 is silent; 1 prints the plan and a line at each pruning.

    Returns:
        A list of Keras callbacks.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value that cannot be. What depends on
            the model and the data is checked when `fit` begins, before
            anything has changed.

    Example:

    ```python
    model = keras_bimp.wrap(build_model())
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, epochs=60, callbacks=keras_bimp.callbacks(0.95))
    pruned = keras_bimp.strip(model)
    ```

    Reference:

    - Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love
      Retraining", ICLR 2023, Section 3.3 (BIMP).
    """
    policy, chosen = automatic_policy(
        target_sparsity,
        allocation,
        criterion,
        granularity,
        on_collapse,
        max_layer_sparsity,
        layer_sparsity,
    )
    as_filter(filters)
    as_filter(exclude, name="exclude")
    if steps_per_epoch is not None:
        check_integer("steps_per_epoch", steps_per_epoch, minimum=1)
    if isinstance(target_sparsity, Plan):
        given = {
            "dense_epochs": dense_epochs,
            "original": original,
            "original_epochs": original_epochs,
            "dense_schedule": dense_schedule,
        }
        if not is_auto(retraining):
            given["retraining"] = retraining
        if not is_auto(cycles):
            given["cycles"] = cycles
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` must not be given together with a `Plan`, "
                    f"which says it. Received: {name}={value!r}"
                )
        planner = _GivenPlan(target_sparsity, chosen)
        retraining = target_sparsity.retraining
        pretrained = target_sparsity.phases[0].prunes
    else:
        if original_epochs is not None:
            check_positive("original_epochs", original_epochs)
        if dense_epochs is not None:
            check_integer("dense_epochs", dense_epochs, minimum=0)
        elif original is not None or original_epochs is not None:
            raise ValueError(
                "`dense_epochs` must be given together with the `original` "
                "training or its length: 0, if the model is what came out of "
                "it. Received: dense_epochs=None"
            )
        cycles, chosen_cycles = automatic_cycles(cycles, policy)
        cycles, retraining = check_automatic(cycles, retraining)
        pretrained = dense_epochs == 0
        planner = _BimpPlan(
            chosen_cycles + chosen,
            target_sparsity=policy.check_target(
                "target_sparsity", target_sparsity
            ),
            dense_epochs=dense_epochs,
            cycles=cycles,
            retraining=retraining,
            original=original,
            original_epochs=original_epochs,
            dense_schedule=dense_schedule,
        )
    prunings = cycles
    if isinstance(target_sparsity, Plan):
        prunings = sum(phase.prunes for phase in target_sparsity.phases)
        policy.check_target("target_sparsity", target_sparsity.target_sparsity)
    if policy.granularity.sparsity is not None and prunings != 1:
        raise ValueError(
            f"`cycles` must be 1 for {policy.granularity.unit}: there is "
            "nothing between dense and that. To get there in steps, call "
            "`keras_bimp.prune` with `selection.NM(3, 4)`, say, first. "
            f"Received: cycles={prunings!r}"
        )
    if is_auto(retraining):
        retraining = RETRAINING["allr"]  # What is chosen needs no more.
    if retraining.by_accuracy and data is None:
        raise ValueError(
            "`data` must be given for retraining='accallr': the training "
            "data, on which the accuracy lost is measured. Received: data=None"
        )
    _check_rewind_to(rewind_to, retraining, pretrained)
    backup = []
    if backup_dir is not None:
        backup = [Backup(backup_dir, save_freq, verbose)]
    return [
        PruneAndRetrain(
            planner,
            steps_per_epoch=steps_per_epoch,
            policy=policy,
            filters=filters,
            exclude=exclude,
            samples=samples_for(policy, data, data_fraction),
            rewind_to=rewind_to,
            verbose=verbose,
        ),
        *backup,
    ]


def _check_rewind_to(rewind_to, retraining, pretrained):
    if not isinstance(rewind_to, str | os.PathLike | None):
        raise TypeError(
            f"`rewind_to` must be a path. Received: rewind_to={rewind_to!r}"
        )
    if rewind_to is not None and not retraining.rewinds:
        raise ValueError(
            "`rewind_to` is for retraining='wr' only. "
            f"Received: rewind_to={rewind_to!r}"
        )
    if retraining.rewinds and pretrained and not is_file_name(rewind_to):
        raise ValueError(
            "`rewind_to` must be a .keras or .weights.h5 file for "
            "retraining='wr' of a pretrained model. "
            f"Received: rewind_to={rewind_to!r}"
        )
    if is_file_name(rewind_to) and not os.path.exists(rewind_to):
        raise ValueError(
            "`rewind_to` must be a file that exists. "
            f"Received: rewind_to={rewind_to!r}"
        )


class _BimpPlan:
    """Makes the plan once `fit` tells its epochs, steps and optimizer."""

    def __init__(self, chosen, **arguments):
        self.chosen = chosen
        self.arguments = arguments

    def __call__(self, epochs, steps_per_epoch, optimizer):
        peak, source = optimizers.peak_rate(optimizer, epochs * steps_per_epoch)
        plan = Plan.bimp(
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            peak=peak,
            **self.arguments,
        )
        return dataclasses.replace(
            plan, peak_source=source, chosen=plan.chosen + self.chosen
        )


class _GivenPlan:
    """Uses a plan that the user made, if `fit` runs as it says."""

    def __init__(self, plan, chosen):
        self.plan = plan
        self.chosen = chosen

    def __call__(self, epochs, steps_per_epoch, optimizer):
        asked = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
        for name, value in asked.items():
            if getattr(self.plan, name) != value:
                raise ValueError(
                    f"`fit` must run the plan's {name}. "
                    f"Received: {name}={value} in `fit`, "
                    f"{getattr(self.plan, name)} in the plan"
                )
        return dataclasses.replace(
            self.plan, chosen=self.plan.chosen + self.chosen
        )
