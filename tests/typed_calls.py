"""Calls of everything public, as mypy sees them: typing_test.py has it look.

Nothing here is run.
"""

import pathlib
from typing import assert_type

import keras
import numpy as np

import keras_bimp
from keras_bimp import backup
from keras_bimp import baselines
from keras_bimp import exporting
from keras_bimp import masking
from keras_bimp import metrics
from keras_bimp import reporting
from keras_bimp import schedules
from keras_bimp import selection
from keras_bimp import shrinking
from keras_bimp import sparsity_schedules


def train(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    callbacks: list = keras_bimp.callbacks(
        0.9,
        dense_epochs=5,
        cycles="renda",
        retraining="allr",
        allocation=selection.Ranking(),
        criterion=selection.Magnitude(),
        granularity=selection.NM(2, 4),
        max_layer_sparsity={"stem": 0.5},
        filters=["^conv"],
        backup_dir=pathlib.Path("backup"),
    )
    callbacks.append(keras_bimp.PruningSummaries("logs"))
    callbacks.append(keras_bimp.Backup("backup", save_freq=100))
    callbacks.append(keras_bimp.RecordLearningRate("record.npy"))
    data = backup.EpochData(x, y, batch_size=64, seed=0)
    keras_bimp.fit(model, data, epochs=10, callbacks=callbacks)
    pruning = keras_bimp.prune(model, 0.5, optimizer=[], exclude="head")
    assert_type(pruning, keras_bimp.Pruning)
    assert_type(pruning.counts, dict[str, int])
    assert_type(pruning.discount, float | None)
    assert_type(keras_bimp.recalibrate_batch_norm(model, x, steps=3), int)


class Counter(backup.Resumable):
    def get_state(self) -> dict:
        return {}


class FirstAlone(selection.Allotment):
    budget = 2


def is_damaged(error: Exception) -> bool:
    return isinstance(error, backup.UnreadableError)


class Halved(masking.Rule):
    def effective_kernel(self, kernel, mask):  # type: ignore[no-untyped-def]
        return kernel / 2


def mask(model: keras.Model) -> None:
    for rule in (Halved(), masking.Hard(), baselines.Soft()):
        keras_bimp.wrap(model, rule=rule)
    keras_bimp.strip(model)
    keras_bimp.Masked(keras.layers.Dense(4), rule=masking.Hard())


def plan() -> None:
    found = keras_bimp.Plan.bimp(0.9, 20, 100, peak=0.1, cycles=2)
    assert_type(found, keras_bimp.Plan)
    assert_type(found.phases, tuple[keras_bimp.Phase, ...])
    assert_type(found.phases[0].pruned, int | None)
    assert_type(sparsity_schedules.geometric(0.5, 0.9), float)
    assert_type(sparsity_schedules.cubic(0.5, 0.9), float)
    decay = sparsity_schedules.PolynomialDecay(0.0, 0.5, 0, 9)
    assert_type(decay(3), tuple[bool, float])


def schedule(record: keras_bimp.RecordLearningRate) -> None:
    made: list[schedules.Schedule] = [
        schedules.ALLR(0.1, steps=100, discount=0.5),
        schedules.CLR(0.1, steps=100),
        schedules.FT(record, steps=100),
        schedules.LLR(0.1, steps=100),
        schedules.LRW(record, steps=100),
        schedules.SLR(record, steps=100),
        schedules.Constant(0.1, steps=100),
        schedules.Cosine(0.1, steps=100, floor=0.01),
        schedules.Linear(0.1, steps=100, warmup=0.1),
        schedules.Recorded([0.1, 0.01]),
        schedules.Stepped(record, peak=0.1, steps=100),
        baselines.Cyclic(0.1, steps=100, interval=10),
    ]
    assert_type(made[0].values().ndim, int)
    schedules.plot(made)
    schedules.discount_factor(0.1, 0.5, 10, 100)


def select(kernels: list[np.ndarray]) -> None:
    masks = keras_bimp.select(
        kernels,
        0.5,
        layouts=[selection.Layout.of_shape(k.shape) for k in kernels],
        layer_sparsity=[None, 0.5],
    )
    assert_type(masks, list[np.ndarray])
    criteria: list[selection.Criterion] = [
        selection.Magnitude(),
        selection.Random(seed=1),
        selection.Saliency(),
    ]
    granularities: list[selection.Granularity] = [
        selection.Weight(),
        selection.Filter("l1"),
        selection.Unit(),
        selection.Block((4, 1)),
        selection.NM(2, 4),
    ]
    allocations: list[selection.Allocation] = [
        selection.Ranking(lambda scores: scores / scores.max()),
        selection.Shares(kept_units),
    ]
    for criterion, granularity in zip(criteria, granularities, strict=False):
        keras_bimp.select(
            kernels,
            0.5,
            criterion=criterion,
            granularity=granularity,
            allocation=allocations[0],
        )


def kept_units(
    candidates: list[selection.Candidate], sparsity: float
) -> list[int]:
    return [round((1 - sparsity) * c.units) for c in candidates]


def recipes() -> None:
    made: list[baselines.Recipe] = [
        baselines.gmp(0.9, schedule=sparsity_schedules.cubic),
        baselines.gsm(0.9, learning_rate=0.1),
        baselines.lc(0.9, weight_decay=1e-4),
        baselines.dpf(0.9, every=16),
        baselines.dnw(0.9),
        baselines.cs(s_init=0.1),
        baselines.soft_threshold_reparameterization(s_init=-5.0),
        baselines.dst(alpha=1e-4),
    ]
    assert_type(made[0].rule, masking.Rule)
    rules: list[masking.Rule] = [
        baselines.DecayOutsideTop(0.9, 1e-4),
        baselines.SigmoidGate(0.0, 0.1),
        baselines.SoftThreshold(0.0),
        baselines.StepThreshold(0.1),
        baselines.StraightThrough(16),
        baselines.TopWeights(0.9),
    ]
    baselines.GlobalSparseMomentum(0.9, learning_rate=0.1)
    baselines.GradualPruning(rules[0], None)
    assert_type(baselines.gradual_sparsities(40, 10, 0.9), dict[int, float])


def work(call: metrics.Call) -> metrics.Work:
    return metrics.Work(own=len(call.inputs))


def measure(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    assert_type(keras_bimp.sparsity(model), metrics.Sparsity)
    assert_type(metrics.sparsity(model).total, float)
    counted = metrics.count_macs(model, rules={keras.layers.Dense: work})
    assert_type(counted, metrics.Macs)
    assert_type(counted.layers["head"], metrics.LayerMacs)
    assert_type(metrics.theoretical_speedup(model), float)
    metrics.units(model)
    metrics.pruning_stability(0.9, 0.8)
    rate = metrics.train_throughput(model, x, y, steps=5)
    assert_type(rate, metrics.Throughput)
    found = keras_bimp.sensitivity(model, (x, y), sparsities=[0.5, 0.9])
    assert_type(found, keras_bimp.Sensitivity)
    assert_type(found.suggested_caps(), dict[str, float])
    report = keras_bimp.report(model, data=(x, y), path="report.html")
    assert_type(report, reporting.Report)
    assert_type(report.sparsity, float)


def deploy(model: keras.Model, x: np.ndarray) -> None:
    keras_bimp.shrink(model, align=4)
    kernels = [layer.kernel for layer in model.layers]
    for groups in shrinking.filter_groups(model, kernels):
        assert_type(groups, np.ndarray)
    assert_type(shrinking.find_groups(model, kernels).stay, list[str | None])
    assert_type(shrinking.find_units(model, kernels)[1], list[str | None])
    path = keras_bimp.export(
        model, "model.tflite", format="litert", calibration_data=x
    )
    assert_type(path.difference, float | None)
    exporting.load_packed("model.packed")
    exporting.unpack("model.packed", pathlib.Path("model.keras"))
