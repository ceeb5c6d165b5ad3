"""Measures the speedup of a SavedModel with sparse kernels.

Prunes each kernel of a model, exports it twice, with dense and with sparse
kernels, and serves both in a fresh process that has only TensorFlow. The two
take turns, so that other load on the machine affects both. Weights are random,
since speed does not depend on them.

Results are written to `--output_dir` part by part. A second call measures only
what is missing. `--print_only` prints the results so far.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import keras
from absl import app
from absl import flags
from absl import logging
from sparse_models import PARTS

import keras_bimp

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS), "Models in `sparse_models.py`.")
flags.DEFINE_list("sparsities", ["0.9", "0.95", "0.98"], "For each kernel.")
flags.DEFINE_list("threads", ["1", "2"], "Threads of TensorFlow.")
flags.DEFINE_list("tasks", ["compare", "check", "memory"], "What to measure.")
flags.DEFINE_list("kernels", ["auto"], "Values of `sparse_kernels`.")
flags.DEFINE_integer("rounds", 200, "Maximum turns of each file.")
flags.DEFINE_float("seconds", 15, "For the turns of one batch size.")
flags.DEFINE_string("output_dir", "output/sparse_serving", "Where to write.")
flags.DEFINE_boolean("print_only", False, "Whether to measure nothing.")


def exported(folder, part, sparsity, kernels):
    """Returns folders of a model: with dense kernels, and with sparse ones."""
    folder = folder / f"{part}_{sparsity}_{kernels}"
    paths = [folder / name / "1" for name in ("dense", "sparse")]
    if paths[1].exists():
        return paths
    shutil.rmtree(folder, ignore_errors=True)
    keras.utils.set_random_seed(0)
    model = keras_bimp.wrap(PARTS[part].build())
    keras_bimp.prune(model, float(sparsity), allocation="uniform")
    model = keras_bimp.strip(model)
    example_data = PARTS[part].examples()
    keras_bimp.export(model, paths[0], example_data=example_data, verbose=0)
    begin = time.perf_counter()
    written = keras_bimp.export(
        model,
        paths[1],
        example_data=example_data,
        sparse_kernels={"True": True}.get(kernels, kernels),
        batch_sizes=PARTS[part].batch_sizes,
    )
    facts = {
        "choices": written.sparse_kernels.summary,
        "seconds": time.perf_counter() - begin,
        "bytes": [size(path) for path in paths],
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    return paths


def size(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def serve(**job):
    """Returns the results of `served.py`, run in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "job.json").write_text(json.dumps(job))
        program = pathlib.Path(__file__).with_name("served.py")
        done = subprocess.run(
            [sys.executable, "-P", program, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def jobs(part, paths):
    """Returns pairs (name, job) of all measurements of a model."""
    part = PARTS[part]
    job = {"sizes": part.sizes, "paths": [str(path) for path in paths]}
    if "compare" in FLAGS.tasks:
        for threads in map(int, FLAGS.threads):
            for batch in part.batch_sizes:
                yield (
                    f"{threads} threads, batch {batch}",
                    {
                        **job,
                        "task": "compare",
                        "threads": threads,
                        "batch": batch,
                        "rounds": FLAGS.rounds,
                        "seconds": FLAGS.seconds,
                    },
                )
    if "check" in FLAGS.tasks:
        yield (
            "check",
            {
                **job,
                "task": "check",
                "threads": 2,
                "counts": part.counts,
                "more_sizes": part.more_sizes,
            },
        )
    if "memory" in FLAGS.tasks:
        for name, path in zip(("dense", "sparse"), paths, strict=True):
            yield (
                f"memory {name}",
                {
                    **job,
                    "task": "memory",
                    "threads": 1,
                    "batch": 1,
                    "paths": [str(path)],
                },
            )


def measure(folder, part, sparsity, kernels):
    file = folder / f"{part}_{sparsity}_{kernels}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    paths = exported(folder, part, sparsity, kernels)
    for name, job in jobs(part, paths):
        if name not in found:
            load = os.getloadavg()[0]
            found[name] = {**serve(**job), "load": load}
            file.write_text(json.dumps(found, indent=1))


def show(folder, part, sparsity, kernels):
    """Prints a part as rows of tables."""
    stem = f"{part}_{sparsity}_{kernels}"
    file, facts = folder / f"{stem}.json", folder / stem / "facts.json"
    if not file.exists() or not facts.exists():
        return
    found, facts = (json.loads(f.read_text()) for f in (file, facts))
    dense, sparse = facts["bytes"]
    print(f"\n{part}, {sparsity} zeros, sparse_kernels={kernels}")
    print(f"  {facts['choices']}")
    print(
        f"  folder {sparse:,} of {dense:,} bytes, {sparse / dense:.3f}; "
        f"exported in {facts['seconds']:.0f} s"
    )
    for name, values in found.items():
        load = values.pop("load")
        if "ratio" in values:
            ratio, low, high = values["ratio"]
            own, *_ = values["ratio_of_processor_time"]
            before, after = values["milliseconds"]
            print(
                f"  {name}: {ratio:.2f} [{low:.2f}, {high:.2f}] "
                f"({before:.2f} -> {after:.2f} ms; processor time {own:.2f}), "
                f"off by {values['off']:.0e}, {values['rounds']} rounds, "
                f"load {load:.1f}"
            )
        elif "more" in values:
            print(
                f"  {name}: {values['resident'] / 1e6:.0f} MB, "
                f"{values['more'] / 1e6:.0f} MB more than TensorFlow alone"
            )
        else:
            texts = (f"{key} {value:.0e}" for key, value in values.items())
            print(f"  off by: {', '.join(texts)}")


def main(_):
    logging.set_verbosity(logging.WARNING)
    folder = pathlib.Path(FLAGS.output_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    every = [
        (part, sparsity, kernels)
        for part in FLAGS.parts
        for sparsity in FLAGS.sparsities
        for kernels in FLAGS.kernels
    ]
    for one in every:
        if not FLAGS.print_only:
            measure(folder, *one)
        show(folder, *one)


if __name__ == "__main__":
    app.run(main)
