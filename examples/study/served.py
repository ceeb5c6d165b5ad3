"""Serves SavedModels in turns, in a process with only TensorFlow.

`python -P served.py FOLDER` reads `job.json` there, and prints results as JSON:
the relative speed of two models, how far their outputs differ, or how much
memory one takes. `sparse_serving.py` starts it.
"""

import concurrent.futures
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

_WARM = 3


def block(*names):
    """Makes imports of these packages fail."""

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in names:
                raise ImportError(f"{name} must not be needed")

    sys.meta_path.insert(0, Blocked())


def load(path):
    """Returns a function from named arrays to the first output."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def run(inputs):
        found = serve(**inputs)
        return found[min(found)].numpy()

    run.loaded, run.specs = loaded, serve.structured_input_signature[1]
    return run


def inputs_of(specs, count, sizes, seed=0):
    """Generates examples: random floats, or small integers."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    found = {}
    for name, spec in specs.items():
        shape = (count, *(n or sizes[i] for i, n in enumerate(spec.shape[1:])))
        whole = spec.dtype.is_integer
        values = rng.integers(0, 2, shape) if whole else rng.normal(size=shape)
        found[name] = tf.constant(values, spec.dtype)
    return found


def times(paths, count, sizes, rounds, seconds):
    """Measures wall and processor time, in turns.

    Returns:
        Two arrays of shape (paths, rounds), and how far outputs differ.
    """
    functions = [load(path) for path in paths]
    inputs = inputs_of(functions[0].specs, count, sizes)
    outputs = [[f(inputs) for f in functions] for _ in range(_WARM)][-1]
    off = difference(*outputs) if len(outputs) > 1 else 0.0
    clock, used = [], []
    begin = time.perf_counter()
    while len(clock) < rounds and (
        len(clock) < 7 or time.perf_counter() - begin < seconds
    ):
        row = []
        order = range(len(functions))
        for i in order if len(clock) % 2 else reversed(order):
            start, start_used = time.perf_counter(), time.process_time()
            functions[i](inputs)
            spent = time.process_time() - start_used
            row.append((i, time.perf_counter() - start, spent))
        clock.append([t for _, t, _ in sorted(row)])
        used.append([t for _, _, t in sorted(row)])
    return np.array(clock).T, np.array(used).T, off


def difference(found, expected):
    """Returns the difference relative to the largest output."""
    largest = np.abs(expected).max(initial=0) or 1
    return float(np.abs(found.astype(float) - expected).max() / largest)


def ratios(clock):
    """Returns median and quartiles of the second's speedup."""
    return np.percentile(clock[0] / clock[1], (50, 25, 75)).tolist()


def compare(job):
    clock, used, off = times(
        job["paths"], job["batch"], job["sizes"], job["rounds"], job["seconds"]
    )
    return {
        "ratio": ratios(clock),
        "ratio_of_processor_time": ratios(np.maximum(used, 1e-9)),
        "milliseconds": (1000 * np.median(clock, 1)).tolist(),
        "rounds": clock.shape[1],
        "off": off,
    }


def check(job):
    """Checks batches of any size, another length, and two threads."""
    dense, sparse = map(load, job["paths"])
    found = {}
    for count in job["counts"]:
        inputs = inputs_of(dense.specs, count, job["sizes"], count)
        found[f"batch {count}"] = difference(sparse(inputs), dense(inputs))
    for sizes in job["more_sizes"]:
        inputs = inputs_of(dense.specs, 3, sizes)
        found[f"sizes {sizes}"] = difference(sparse(inputs), dense(inputs))
    batches = [
        inputs_of(dense.specs, count, job["sizes"], count) for count in (1, 5)
    ]
    expected = [dense(inputs) for inputs in batches]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(sparse, batches * 8))
    found["two threads"] = max(
        difference(y, expected[i % 2]) for i, y in enumerate(outputs)
    )
    return found


def memory(job):
    """Returns a process' bytes, in total and in excess of TensorFlow's."""
    import tensorflow as tf

    tf.function(lambda x: x @ x)(tf.ones((8, 8)))
    before = resident()
    function = load(job["paths"][0])
    inputs = inputs_of(function.specs, job["batch"], job["sizes"])
    for _ in range(20):
        function(inputs)
    return {"resident": resident(), "more": resident() - before}


def resident():
    """Returns the resident bytes of this process."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(s for s in status.splitlines() if s.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def main(folder):
    job = json.loads(pathlib.Path(folder, "job.json").read_text())
    block("keras_bimp")
    import tensorflow as tf

    block("keras")
    if job["threads"]:
        tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
        tf.config.threading.set_inter_op_parallelism_threads(job["threads"])
    tasks = {"compare": compare, "check": check, "memory": memory}
    print(json.dumps(tasks[job["task"]](job)))


if __name__ == "__main__":
    main(sys.argv[1])
