"""Private Keras names for saving, exporting and random numbers."""

import keras
from keras.src.backend.common import global_state
from keras.src.export.export_utils import get_input_signature
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.random.seed_generator import global_seed_generator
from keras.src.saving.serialization_lib import SafeModeScope

__all__ = ["get_input_signature"]


def saves_legacy() -> bool:
    """Whether a model is being saved in the legacy HDF5 format."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))


def trusted_code():
    """Returns a scope in which a config may hold code, such as a `Lambda`."""
    return SafeModeScope(False)


def global_seed(make: bool = False) -> keras.Variable | None:
    """Returns the state of the global seed generator; `None` if unused."""
    if make:
        return global_seed_generator().state
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if own is None else own.state


def make_tf_tensor_spec(spec):
    """Returns the `tf.TensorSpec` of an input."""
    from keras.src.export.export_utils import make_tf_tensor_spec

    return make_tf_tensor_spec(spec)


def patch_tf2onnx() -> None:
    """Makes tf2onnx work with the installed version of NumPy."""
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()
