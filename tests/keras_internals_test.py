"""The private names of Keras exist and work as expected."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_bimp
from keras_bimp._src.keras_internals import functional_graphs as graphs
from keras_bimp._src.keras_internals import layers
from keras_bimp._src.keras_internals import optimizer_state as optimizers
from keras_bimp._src.keras_internals import quantization
from keras_bimp._src.keras_internals import saving
from keras_bimp._src.keras_internals import trainer

pytestmark = pytest.mark.every_backend


def functional():
    inputs = keras.Input((3,), name="given")
    hidden = keras.layers.Dense(4, name="hidden")(inputs)
    return keras.Model(inputs, keras.ops.relu(hidden), name="outer")


def compiled(optimizer="sgd"):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


# Private names are used only in that folder.


def test_private_names_of_keras_are_in_one_place():
    folder = pathlib.Path(keras_bimp.__file__).parent
    found = [
        f"{path.relative_to(folder)}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        if path.parent.name != "keras_internals"
        for line in path.read_text("utf-8").splitlines()
        if re.search(
            r"keras\.src|\w\)?\._(?!_|src\b|replace\()\w+",
            line.split(" #")[0],
        )
        and not re.search(r"\b(self|cls|rule|scores|other|pool)\._", line)
        and "tf.__internal__" not in line
    ]
    assert not found


# Layers.


def test_layers_and_variables_are_found():
    model = compiled()
    inner = layers.layers_in(model)
    assert inner[0] is model
    assert model.layers[0] in inner
    assert model.layers[0] in layers.layers_of(model)
    assert model not in layers.layers_in(model, include_self=False)
    dense = model.layers[0]
    assert layers.own_variables(dense) == [dense.kernel, dense.bias]
    assert layers.own_variables(model) == []
    assert layers.stored_kernel(dense) is dense.kernel
    assert layers.shapes_built_with(dense) == {"input_shape": (None, 3)}


def test_a_cell_carries_on():
    cell = keras.layers.LSTMCell(2)
    gates = np.array([[[0.5, -1.0]], [[2.0, 0.1]], [[1.5, 3.0]], [[-0.3, 0.7]]])
    enter, keep, new, leave = gates.astype("float32")
    before = np.array([[0.25, -2.0]], "float32")

    def open_by(x):
        return 1 / (1 + np.exp(-x))

    carry, out = layers.carry_and_output(
        cell,
        [keras.ops.convert_to_tensor(x) for x in (enter, keep, new, leave)],
        keras.ops.convert_to_tensor(before),
    )
    expected = open_by(keep) * before + open_by(enter) * np.tanh(new)
    for found, wanted in ((carry, expected), (out, open_by(leave))):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(found), wanted, rtol=1e-5
        )


def test_variables_can_be_made_late_and_are_sorted():
    dense = compiled().layers[0]
    with layers.more_variables(dense):
        late = dense.add_weight(shape=(), name="late")
    assert layers.own_variables(dense)[-1] is late
    with pytest.raises(ValueError, match="cannot add new elements"):
        dense.another = keras.Variable(0.0)
    layers.sort_own_variables(dense, key=lambda v: v.name)
    assert [v.name for v in layers.own_variables(dense)] == [
        "bias",
        "kernel",
        "late",
    ]


def test_metrics_and_seeds_of_a_layer_are_its_own():
    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.metric = keras.metrics.Mean()
            self.dropout = keras.layers.Dropout(0.5, seed=1)

    layer = Counting()
    assert layers.own_metrics(layer) == [layer.metric]
    assert layers.seeds_of(layer) == []
    (seed,) = layers.seeds_of(layer.dropout)
    assert seed is layer.dropout.seed_generator.state


def test_arguments_are_bound_as_of_another_layer():
    class Outer(keras.layers.Layer):
        def call(self, *args, **kwargs):
            return args, sorted(kwargs), layers.is_training(self)

    class Inner(keras.layers.Layer):
        def call(self, x, other, training=None):
            return x

    outer = Outer()
    assert not layers.takes_training(outer)
    assert not layers.takes_mask(outer)
    assert layers.takes_mask(keras.layers.Softmax())
    layers.adopt_signature(outer, Inner())
    assert layers.takes_training(outer)
    _, names, training = outer(np.ones(2), other=np.ones(2), training=True)
    assert "training" in names
    assert training
    assert not outer(np.ones(2), other=np.ones(2))[2]


def test_the_outermost_call_is_known_and_none_in_a_stateless_call():
    seen = []

    class Outer(keras.layers.Layer):
        def __init__(self, inner=None):
            super().__init__()
            self.inner = inner

        def call(self, x):
            seen.append((self.name, layers.is_outermost_call(self)))
            return x if self.inner is None else self.inner(x)

    inner = Outer()
    outer = Outer(inner)
    outer(np.ones(2))  # Builds both, which also calls them.
    seen.clear()
    outer(np.ones(2))
    inner(np.ones(2))
    assert seen == [(outer.name, True), (inner.name, False), (inner.name, True)]
    seen.clear()
    inner.stateless_call([], [], np.ones(2))
    assert seen == [(inner.name, False)]
    assert not layers.is_outermost_call(inner)


def test_parts_of_attention_and_tables():
    attention = keras.layers.MultiHeadAttention(2, 2)
    attention(np.ones((1, 2, 4)), np.ones((1, 2, 4)))
    assert {"query", "key", "value", "output"} <= set(
        layers.parts_of_attention(attention)
    )
    table = keras.layers.Embedding(3, 2)
    table.build()
    assert layers.stored_embeddings(table) is table.embeddings


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_kernels_of_quantized_layers(mode):
    """See also `tests/quantized_test.py`."""
    dense = compiled().layers[0]
    assert not quantization.is_quantized(dense)
    assert quantization.float_kernels(dense) == []
    dense.quantize(mode)
    assert quantization.is_quantized(dense)
    (kernel,) = quantization.float_kernels(dense)
    assert (kernel.role, kernel.shape, kernel.size) == ("kernel", (3, 2), 6)
    assert any(kernel.variable is v for v in dense.weights)
    names = {v.name for v in quantization.variables_beside(dense)}
    assert "kernel_scale" in names
    assert not names & {"kernel", "bias"}


def test_lora_of_layers():
    dense = compiled().layers[0]
    assert not quantization.has_lora(dense)
    dense.enable_lora(2)
    assert quantization.has_lora(dense)
    assert not quantization.is_quantized(dense)
    names = [v.name for v in quantization.variables_beside(dense)]
    assert names == ["lora_kernel_a", "lora_kernel_b"]


def test_classes_that_are_not_of_keras():
    class Own(keras.layers.Layer):
        pass

    model = keras.Sequential([keras.Input((3,)), Own(), keras.layers.Dense(2)])
    assert layers.foreign_classes(model) == {"Own": Own}


def test_a_stateless_scope_is_known():
    assert not layers.in_stateless_scope()
    with keras.StatelessScope():
        assert layers.in_stateless_scope()


# Graphs.


def test_graphs_are_found():
    model = functional()
    assert type(model) is graphs.Functional
    assert graphs.graph_of(model) is model
    assert graphs.graph_of(compiled()).inputs
    assert graphs.graph_of(keras.layers.Dense(2)) is None
    dense, relu = [node.operation for node in graphs.nodes_of(model)]
    assert dense is model.get_layer("hidden")
    assert graphs.is_of_kerass_ops(type(relu))
    assert not graphs.is_of_kerass_ops(type(dense))
    assert set(graphs.operations_of(model)) >= {dense, relu}
    assert graphs.operations_of(dense) == []
    assert graphs.maker_of(model.outputs[0]) is relu
    assert graphs.maker_of(np.ones(2)) is None
    assert graphs.inputs_of(dense) is None
    assert set(vars(model)) >= graphs.OF_THE_GRAPH


def test_a_graph_is_run_through():
    seen = []

    def noted(operation):
        seen.append(operation)
        return operation

    model = functional()
    x = np.ones((2, 3), "float32")
    found = graphs.run_through(model, x, noted)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found),
        keras.ops.convert_to_numpy(model(x)),
    )
    assert model.get_layer("hidden") in seen
    spec = graphs.compute_output_spec(model, keras.KerasTensor((5, 3)))
    assert spec.shape == (5, 4)


# Optimizers.


@pytest.mark.parametrize(
    ("optimizer", "kinds"),
    [
        (keras.optimizers.SGD, {"momentums"}),
        (keras.optimizers.Adam, {"_momentums", "_velocities"}),
        (keras.optimizers.Adagrad, {"_accumulators"}),
        (keras.optimizers.Ftrl, {"_accumulators", "_linears"}),
    ],
    ids=["SGD", "Adam", "Adagrad", "Ftrl"],
)
def test_slots_are_found_and_none_is_left_out(optimizer, kinds):
    given = {"momentum": 0.9} if optimizer is keras.optimizers.SGD else {}
    optimizer = optimizer(0.1, use_ema=True, **given)
    # The first and the third have one shape, and one name.
    kernels = [
        keras.Variable(np.ones(shape), name="kernel")
        for shape in [(2, 3), (3,), (2, 3)]
    ]
    optimizer.build(kernels)
    found = [optimizers.slots_of(optimizer, kernel) for kernel in kernels]
    kinds = {*kinds, "_model_variables_moving_average"}
    assert {name for name, _ in found[0]} == kinds
    slots = [slot for pairs in found for _, slot in pairs]
    assert len({id(slot) for slot in slots}) == 3 * len(kinds)
    own = {id(optimizers.counter_of(optimizer)), id(optimizer.learning_rate)}
    assert {id(slot) for slot in slots} == {
        id(v) for v in optimizer.variables if id(v) not in own
    }
    assert optimizers.slots_of(optimizer, keras.Variable(1.0)) is None
    pairs = optimizers.averages_of(optimizer)
    assert [one for one, _ in pairs] == kernels


class Hidden(keras.optimizers.SGD):
    """Hides its slots in an unknown place."""

    def build(self, variables):
        super().build(variables)
        self.memory = {
            v.path: self.add_variable_from_reference(v, "memory")
            for v in variables
        }


def test_slots_that_cannot_be_found_are_an_error():
    optimizer = Hidden(0.1)
    kernel = keras.Variable(np.ones((2, 3)), name="kernel")
    optimizer.build([kernel])
    with pytest.raises(ValueError, match="optimizer=Hidden"):
        optimizers.slots_of(optimizer, kernel)


def test_a_list_of_something_else_is_not_taken_for_slots():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    kernel = keras.Variable(np.ones((2, 3)), name="kernel")
    optimizer.build([kernel])
    optimizer.watched = [kernel]
    assert [name for name, _ in optimizers.slots_of(optimizer, kernel)] == [
        "momentums"
    ]


def test_a_rate_is_replaced_and_put_back():
    optimizer = keras.optimizers.SGD(0.5)
    rate = optimizers.rate_of(optimizer)
    assert isinstance(rate, keras.Variable)
    before = optimizer.variables
    optimizers.replace_rate(optimizer, lambda: 0.25)
    assert float(optimizer.learning_rate) == 0.25
    optimizers.set_variables(optimizer, before[:1], before)
    assert optimizer.variables == before[:1]
    optimizers.replace_rate(optimizer, rate)
    optimizers.set_variables(optimizer, before)
    assert optimizer.variables == before
    assert float(optimizer.learning_rate) == 0.5


def test_gradients_are_changed_before_the_step():
    class Halved(optimizers.ChangesGradients, keras.optimizers.SGD):
        def changed(self, gradients, variables):
            return [gradient / 2 for gradient in gradients]

    kernel = keras.Variable([1.0])
    optimizer = Halved(1.0)
    optimizer.build([kernel])
    optimizer.apply([keras.ops.convert_to_tensor([1.0])])
    assert keras.ops.convert_to_numpy(kernel.value)[0] == 0.5


# Training.


def test_fit_begins_where_it_is_told():
    model = compiled()
    trainer.begin_at(model, 2)
    history = model.fit(np.ones((2, 3)), np.ones((2, 2)), epochs=3, verbose=0)
    assert history.epoch == [2]
    trainer.begin_at(model, None)
    history = model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0)
    assert history.epoch == [0]


def test_what_a_model_is_compiled_with():
    model = compiled()
    assert trainer.strategy_of(model) is None
    assert trainer.compile_config_of(model)["metrics"] == ["mae"]
    assert trainer.compile_config_of(keras.Sequential()) is None
    assert not trainer.lists_its_metrics(model)
    batch = np.ones((2, 3), "float32"), np.ones((2, 2), "float32")
    trainer.build_metrics(model, batch)
    assert trainer.lists_its_metrics(model)
    x, y = map(keras.ops.convert_to_tensor, batch)
    loss = trainer.loss_of(model, x=x, y=y, y_pred=y + 1, sample_weight=None)
    assert float(loss) == 1.0


def test_callbacks_remember_what_is_asked_for():
    model = compiled()
    made = {
        keras.callbacks.EarlyStopping: {"monitor": "loss"},
        keras.callbacks.ModelCheckpoint: {"filepath": "{epoch}.keras"},
        keras.callbacks.ReduceLROnPlateau: {"monitor": "loss"},
        keras.callbacks.SwapEMAWeights: {},
    }
    for kind, names in trainer.REMEMBERED.items():
        callback = kind(**made[kind])
        callback.set_model(model)
        if kind is not keras.callbacks.SwapEMAWeights:
            callback.on_train_begin()
        assert not [name for name in names if not hasattr(callback, name)]


@pytest.mark.job("tensorflow")
def test_a_model_says_how_it_is_called_once_saved():
    model = functional()
    (spec,) = trainer.input_signature(model)
    assert spec.shape == (None, 3)

    class Model(trainer.SavedWithSignature, keras.Model):
        def save_signature(self):
            return "this"

    assert Model()._default_save_signature == "this"


# Saving and random numbers.


def test_a_legacy_file_is_told(tmp_path):
    told = []

    class Layer(keras.layers.Layer):
        def get_config(self):
            told.append(saving.saves_legacy())
            return super().get_config()

    model = keras.Sequential([keras.Input((1,)), Layer()])
    model.save(tmp_path / "model.keras")
    assert not any(told)
    told.clear()
    model.save(tmp_path / "model.h5")
    assert all(told)


def test_what_an_optimizer_trains_is_told():
    optimizer, kernel = keras.optimizers.SGD(0.1), keras.Variable([1.0])
    assert optimizers.trained_by(optimizer) == []
    optimizer.build([kernel])
    assert optimizers.trained_by(optimizer) == [kernel]


def test_code_is_trusted_in_a_scope_only():
    config = keras.layers.serialize(keras.layers.Lambda(lambda x: x + 1))
    with pytest.raises(ValueError, match="safe"):
        keras.layers.deserialize(config)
    with saving.trusted_code():
        assert float(keras.layers.deserialize(config)(np.ones(()))) == 2


def test_the_global_seed_is_found():
    state = saving.global_seed(make=True)
    assert state is saving.global_seed()
    before = keras.ops.convert_to_numpy(state.value).copy()
    keras.random.uniform((1,))
    assert (keras.ops.convert_to_numpy(state.value) != before).any()


def test_a_saved_model_is_not_what_it_is_by_class():
    class Model(layers.SavedAsLayer, graphs.Functional):
        pass

    inputs = keras.Input((2,))
    assert Model(inputs, keras.layers.Dense(1)(inputs))._obj_type() == "Layer"


def test_inputs_are_told_for_a_file():
    (spec,) = keras.tree.flatten(saving.get_input_signature(functional()))
    assert spec.name == "given"
    assert spec.shape == (None, 3)


@pytest.mark.job("jax")
@pytest.mark.parametrize("scaled", [False, True])
def test_state_that_is_added_is_in_no_file(scaled):
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    around = [inner]
    if scaled:
        around = [keras.optimizers.LossScaleOptimizer(inner), inner]
    kernel = keras.Variable(np.ones((2, 3)), name="kernel")
    around[0].build([kernel])
    variables, plain = around[0].variables, {}
    around[0].save_own_variables(plain)
    # It has the shape of a slot but is not one.
    mask = keras.Variable(np.ones((2, 3)), name="mask")
    optimizers.add_state(around, [mask])
    assert around[0].variables == [*variables, mask]
    assert optimizers.added_state(inner) == [mask]
    assert len(optimizers.slots_of(inner, kernel)) == 1
    stored = {}
    around[0].save_own_variables(stored)
    assert stored.keys() == plain.keys()
    around[0].load_own_variables(stored)
    assert around[0].variables == [*variables, mask]
    optimizers.remove_state(around)
    assert around[0].variables == variables
    assert optimizers.added_state(inner) == []
    optimizers.remove_state(around)


@pytest.mark.job("jax")
def test_the_state_of_a_step_is_not_looked_through():
    class Quick(trainer.QuickSteps, keras.Sequential):
        pass

    model, seen = Quick([keras.Input((3,)), keras.layers.Dense(2)]), []
    model.compile("sgd", "mse")
    before = model.get_weights()
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **kw: seen.append(
            vars(model)["_jax_state"]
        )
    )
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[look])
    assert type(seen[0]) is dict
    assert (model.get_weights()[0] != before[0]).any()
    assert model._jax_state is None


def test_validation_data_are_split_off_as_keras_does():
    x, y = np.arange(8), np.arange(8) + 1
    given = {"x": x, "y": y, "validation_split": 0.25}
    found = trainer.validation_split_of(given)
    np.testing.assert_array_equal(found[0], [6, 7])
    np.testing.assert_array_equal(found[1], [7, 8])
    assert trainer.validation_split_of({**given, "validation_data": 3}) == 3
    assert trainer.validation_split_of({"x": x}) is None
    assert trainer.validation_split_of({**given, "x": object()}) is None


def test_a_variable_is_spread_as_another():
    one, other = keras.Variable([1.0]), keras.Variable([2.0])
    layers.share_layout(one, other)  # Nothing is spread here.
    one._layout = None
    layers.share_layout(one, other)
    assert float(keras.ops.convert_to_numpy(other.value)[0]) == 2.0
