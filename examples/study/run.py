"""One run of the study: trains, prunes, measures, and writes one JSON line.

Methods: `dense`; `bimp`, a budget of `--epochs` of which `--dense_epochs` are
dense; `imp`, which prunes and retrains the network of a `dense` run with the
same settings, which is executed first if necessary; and the eight
pruning-stable methods. Flags that the method does not use are refused.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Fewer start-up messages.

import runs
from absl import app
from absl import flags
from absl import logging
from runs import Run

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/study", "Where to write.")
flags.DEFINE_bool("backup", False, "Whether a killed run resumes.")
flags.DEFINE_bool("jit_compile", None, "Whether to compile; Keras decides.")


def define_flags():
    """Defines a flag for each setting of a run."""
    define = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
        dict: flags.DEFINE_string,
        int | str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(Run):
        default = "{}" if field.type is dict else field.default
        if field.type == int | str:
            default = str(default)
        define[field.type](field.name, default, field.metadata["help"])


define_flags()


def asked():
    """Returns the run that the flags describe."""
    values = {
        field.name: getattr(FLAGS, field.name)
        for field in dataclasses.fields(Run)
    }
    for field in dataclasses.fields(Run):
        if field.type is dict:
            values[field.name] = json.loads(values[field.name])
    run = Run(**values)
    ignored = [
        f"--{name}"
        for name in values
        if FLAGS[name].present and name not in run.facts()
    ]
    if ignored:
        raise app.UsageError(
            f"--method={run.method} does not use {', '.join(ignored)}."
        )
    return run


def main(_):
    run = asked()
    from training import execute  # Imports Keras, after --help.
    from training import folder_of_dense

    logging.set_verbosity(logging.WARNING)
    output_dir = pathlib.Path(FLAGS.output_dir)
    dense_dir = output_dir / "dense"
    output_dir.mkdir(parents=True, exist_ok=True)
    to_do = [run]
    if run.method == "imp" and not folder_of_dense(run, dense_dir).exists():
        to_do.insert(0, run.dense())
    for each in to_do:
        backup_dir = output_dir / "backups" / each.digest
        found = execute(
            each,
            data_dir=FLAGS.data_dir,
            dense_dir=dense_dir,
            backup_dir=backup_dir if FLAGS.backup else None,
            jit_compile="auto"
            if FLAGS.jit_compile is None
            else FLAGS.jit_compile,
        )
        runs.append(
            output_dir / "runs.jsonl", {"run": each.facts(), "found": found}
        )
        shutil.rmtree(backup_dir, ignore_errors=True)
        print(
            f"{each.method}, {found['sparsity']:.2%} sparse: "
            f"{found['test']:.2f} {found['measure']}",
            flush=True,
        )
        if found["diverged"] and each is not run:
            sys.exit("Nothing to prune: the dense training diverged.")


if __name__ == "__main__":
    app.run(main)
