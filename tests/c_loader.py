"""Serves a SavedModel by TensorFlow's C++ loader, without its Python package.

TensorFlow Serving loads models by the same function. The inputs are the arrays
of a `.npz` file, in the order of its names, and those of every name are served
by a thread of its own; the outputs are written to another file.

    python c_loader.py LIBRARIES FOLDER INPUT OUTPUT inputs.npz outputs.npz

INPUT and OUTPUT are names of tensors, such as `serving_default_x:0`.
"""

import concurrent.futures
import ctypes
import pathlib
import sys

import numpy as np

FLOAT = 1


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Library:
    """The functions of the C API, with `status` arguments turned into errors.

    Args:
        folder: Folder of `libtensorflow_cc`.
    """

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self._libraries = [
            ctypes.CDLL(str(folder / f"lib{name}.so.2"), ctypes.RTLD_GLOBAL)
            for name in ("tensorflow_framework", "tensorflow_cc")
        ]

    def call(self, name, *arguments, returns=ctypes.c_void_p):
        for library in reversed(self._libraries):
            if hasattr(library, name):
                function = library[name]  # A new object: threads share none.
                break
        function.restype = returns
        return function(*arguments)

    def checked(self, name, *arguments, returns=ctypes.c_void_p):
        """Calls a function whose last argument is a status."""
        status = ctypes.c_void_p(self.call("TF_NewStatus"))
        found = self.call(name, *arguments, status, returns=returns)
        if self.call("TF_GetCode", status, returns=ctypes.c_int):
            text = self.call("TF_Message", status, returns=ctypes.c_char_p)
            raise RuntimeError(text.decode())
        return found


class Served:
    """A SavedModel with one input and one output, both float32."""

    def __init__(self, library, folder, input, output):
        self._library = library
        graph = ctypes.c_void_p(library.call("TF_NewGraph"))
        options = ctypes.c_void_p(library.call("TF_NewSessionOptions"))
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = ctypes.c_void_p(
            library.checked(
                "TF_LoadSessionFromSavedModel",
                options,
                None,
                str(folder).encode(),
                tags,
                ctypes.c_int(1),
                graph,
                None,
            )
        )
        self._input = self._named(graph, input)
        self._output = self._named(graph, output)

    def _named(self, graph, name):
        operation, _, index = name.partition(":")
        found = self._library.call(
            "TF_GraphOperationByName", graph, operation.encode()
        )
        if not found:
            raise ValueError(f"No operation {operation!r} in the graph.")
        return Output(found, int(index))

    def __call__(self, x):
        x = np.ascontiguousarray(x, "float32")
        given = self._library.call(
            "TF_AllocateTensor",
            ctypes.c_int(FLOAT),
            (ctypes.c_int64 * x.ndim)(*x.shape),
            ctypes.c_int(x.ndim),
            ctypes.c_size_t(x.nbytes),
        )
        data = self._library.call("TF_TensorData", ctypes.c_void_p(given))
        ctypes.memmove(data, x.ctypes.data, x.nbytes)
        given, found = (ctypes.c_void_p * 1)(given), (ctypes.c_void_p * 1)()
        self._library.checked(
            "TF_SessionRun",
            self._session,
            None,
            ctypes.byref(self._input),
            given,
            ctypes.c_int(1),
            ctypes.byref(self._output),
            found,
            ctypes.c_int(1),
            None,
            ctypes.c_int(0),
            None,
        )
        return self._array(ctypes.c_void_p(found[0]))

    def _array(self, tensor):
        rank = self._library.call("TF_NumDims", tensor, returns=ctypes.c_int)
        shape = [
            self._library.call(
                "TF_Dim", tensor, ctypes.c_int(i), returns=ctypes.c_int64
            )
            for i in range(rank)
        ]
        y = np.empty(shape, "float32")
        data = self._library.call("TF_TensorData", tensor)
        ctypes.memmove(y.ctypes.data, data, y.nbytes)
        return y


def main(libraries, folder, input, output, inputs, outputs):
    served = Served(Library(libraries), folder, input, output)
    given = dict(np.load(inputs))
    with concurrent.futures.ThreadPoolExecutor(len(given)) as pool:
        found = pool.map(served, given.values())
    np.savez(outputs, **dict(zip(given, found, strict=True)))
    assert "tensorflow" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
