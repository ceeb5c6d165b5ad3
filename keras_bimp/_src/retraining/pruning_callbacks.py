"""`callbacks`: prune and retrain during `model.fit`."""

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
    """Create the callbacks that prune and retrain a wrapped model in `fit`.

    `fit(epochs=E)` is the whole budget: `dense_epochs` of dense training with
    a learning rate that falls linearly to 0, then `cycles`, each a pruning and
    a retraining. Settings that are not given are chosen automatically and
    listed in the printed plan. The largest rate is the compiled one, which is
    restored after the run.

    The paper's method in its simplest form is `callbacks(target, dense_epochs=
    E // 2, cycles=1, retraining="allr", allocation="global")`.

    List these callbacks before those that write logs. They log `sparsity`,
    `learning_rate` and `cycle`, and `norm_drop`, `d1`, `d2` and `discount` of
    the last pruning (see `schedules.discount_factor`). If `fit` has validation
    data that can be read repeatedly (not a generator), they also log each
    metric on it just before and after the last pruning, such as
    `val_accuracy_before_pruning` and `val_accuracy_after_pruning`, or NaN
    before the first pruning. This costs one extra validation per pruning.

    If `fit` ends with an exception, the optimizer keeps the schedule of the
    run; the next `fit` with these callbacks corrects that. With `backup_dir`,
    it also resumes where the previous one stopped, in the same program or in
    another.

    Training stops if the loss or the weights are no longer finite.

    If you use `EarlyStopping` or `ModelCheckpoint(save_best_only=True)` with
    these callbacks, they restart their comparison at each pruning, because
    the weights of an earlier epoch would bring pruned weights back. Other
    callbacks that set the learning rate raise an error.

    Args:
        target_sparsity: Float in [0, 1), of all prunable weights, reached
            exactly; see `keras_bimp.prune`. Or a `Plan`, which replaces all
            arguments from `dense_epochs` to `dense_schedule`, except those of
            the selection.
        dense_epochs: Integer >= 0 and less than the epochs of `fit`; 0 for a
            pretrained model. Defaults to a quarter of the epochs.
        cycles: Integer >= 1, how often to prune and retrain; or `"renda"`:
            prune 20% of what remains and retrain for as long as the original
            training, until the target is reached; or `"auto"`: 5, or fewer
            for a low target or few iterations, see `Plan.bimp`.
        retraining: How to retrain: `"allr"` (adaptive linear), `"llr"`
            (linear), `"ft"` (constant, the last rate), `"lrw"` (repeats the
            last rates), `"wr"` (like `"lrw"`, with the weights rewound too),
            `"slr"` (all rates, compressed), `"clr"` (cosine), `"accallr"`
            (adaptive, by accuracy; needs `data`), `"allr_d1"`, `"allr_d2"`,
            `"constant"`, `"stepped"`, `"cosine"`, `"linear"`; or a schedule,
            its class, or a callable that returns one; see `Plan.bimp`.
            `"auto"` is `"llr"` after a dense phase of less than half of the
            epochs, otherwise `"allr"`.
        allocation: See `keras_bimp.select`. `"auto"` is `"lamp"` for targets
            of 0.9 or more if single weights are pruned by magnitude, otherwise
            the default of the granularity.
        criterion: See `keras_bimp.select`.
        granularity: See `keras_bimp.select`.
        original: Learning rates of the original training of a pretrained
            model: an array with one rate per iteration, a
            `RecordLearningRate`, or a pair `(schedule, steps)`. Required then
            by `"ft"`, `"lrw"`, `"wr"`, `"slr"`, `"clr"` and `"stepped"`.
        original_epochs: Length of the original training of a pretrained model,
            for ALLR. If unknown (the default), ALLR uses `min(1, d1)`. With
            `retraining="auto"` it is computed from `original` if given.
        dense_schedule: `LearningRateSchedule` of the dense phase. Defaults to
            linear from the peak rate to 0.
        steps_per_epoch: Integer >= 1. Needed only if the length of the data
            is unknown.
        data: Training data: a tuple of arrays `(x, y)`, or batches, such as a
            `tf.data.Dataset` or a `PyDataset`. `"accallr"` reads it once
            before the first pruning and once after each;
            `criterion="saliency"` reads it once before each. Do not pass the
            same object that `fit` shuffles, because its order would change.
        data_fraction: Float in (0, 1], the share of `data` to use: its first
            batches.
        rewind_to: For `"wr"`. For a pretrained model: a `.keras` or
            `.weights.h5` file of its weights when the original training had as
            many epochs left as a cycle has. A `.keras` file can also contain
            the optimizer slots; otherwise they are left unchanged. With a
            dense phase: a directory to keep these weights in. Defaults to
            memory: one copy of the weights and the optimizer's slots (two if
            the last cycle is longer than the others). Resuming a killed run
            needs the directory.
        on_collapse: What to do if a pruning would leave a kernel fewer
            weights than it has output units: `"protect"`, `"raise"` or
            `"ignore"`; see `keras_bimp.select`.
        max_layer_sparsity: The highest sparsity of any kernel; see
            `keras_bimp.prune`.
        layer_sparsity: Mapping from names of kernels, or regexes, to fixed
            final sparsities, which override the allocation. In between, each
            follows its own geometric path, and the total deviates if
            necessary.
        filters: Which layers to prune; see `keras_bimp.prune`.
        exclude: Which layers not to prune.
        backup_dir: Folder for everything needed to resume after a crash; see
            `Backup`. Defaults to none.
        save_freq: How often to write the backup; see `Backup`.
        verbose: 0 is silent; 1 prints the plan and a line at each pruning.

    Returns:
        A list of Keras callbacks.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has an invalid value. Settings that depend
            on the model and the data are checked when `fit` begins, before
            anything changes.

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
                    f"which contains it. Received: {name}={value!r}"
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
                "training or its length: 0, if the model is its result. "
                "Received: dense_epochs=None"
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
            f"`cycles` must be 1 for {policy.granularity.unit}, which has no "
            "intermediate steps. To get there gradually, first call "
            "`keras_bimp.prune` with, for example, `selection.NM(3, 4)`. "
            f"Received: cycles={prunings!r}"
        )
    if is_auto(retraining):
        retraining = RETRAINING["allr"]  # "auto" needs nothing more.
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
    """Creates the plan once `fit` provides epochs, steps and optimizer."""

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
    """Uses a given plan, if it matches `fit`."""

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
