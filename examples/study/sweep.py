"""Executes all runs of a grid, several at a time, in separate processes.

Each finished run is a line of `runs.jsonl` in `--output_dir` and is not
repeated, so you can stop at any time and start again. Failed runs are reported,
and tried again the next time. At the end, the tables and figures of the grid
are written.


```bash
python examples/study/sweep.py --grid=examples/study/grids/cpu/schedules.yaml
```
"""

import concurrent.futures
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time

import runs
import tables
from absl import app
from absl import flags
from grids import Grid

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("grid", None, "YAML file; may be repeated.")
flags.DEFINE_integer("processes", 1, "Runs at a time.")
flags.DEFINE_list(
    "devices", [], "Values of CUDA_VISIBLE_DEVICES, one per process."
)
flags.DEFINE_bool("dry_run", False, "Only print the runs.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/study", "Where to write.")
flags.DEFINE_bool("backup", False, "Whether killed runs resume.")
flags.DEFINE_bool("jit_compile", None, "Whether to compile; Keras decides.")
flags.mark_flag_as_required("grid")

STUDY = pathlib.Path(__file__).parent


class Sweep:
    """Runs in separate processes, and their results.

    Args:
        output_dir: Folder of `runs.jsonl`.
        processes: How many run at a time.
        devices: Each run sees one of them.
    """

    def __init__(self, output_dir, processes, devices=()):
        self._output_dir = pathlib.Path(output_dir)
        self._path = self._output_dir / "runs.jsonl"
        runs.mend(self._path)
        self._processes = len(devices) or processes
        self._devices = queue.SimpleQueue()
        for device in devices or [None] * processes:
            self._devices.put(device)
        self._lock = threading.Lock()
        self.failed = []
        self._take_up()

    def _take_up(self):
        self._found = {
            runs.Run(**entry["run"]).key: entry["found"]
            for entry in runs.read(self._path)
        }

    def found(self, run):
        """Returns the results of a run, or `None`."""
        return self._found.get(run.key)

    def to_do(self, asked):
        """Returns the unfinished runs, each once."""
        wanted = {run.key: run for run in asked}
        return [run for key, run in wanted.items() if key not in self._found]

    def run(self, asked):
        """Executes the unfinished runs."""
        wanted = self.to_do(asked)
        telling = what_differs(wanted)
        with concurrent.futures.ThreadPoolExecutor(self._processes) as pool:
            futures = [pool.submit(self._run, run, telling) for run in wanted]
            for number, future in enumerate(
                concurrent.futures.as_completed(futures), start=1
            ):
                print(f"{number}/{len(wanted)} {future.result()}", flush=True)
        self._take_up()

    def _run(self, run, telling):
        if run.method == "imp" and self._diverged(run.dense()):
            return self._fail(run, "The dense training before it diverged.")
        device = self._devices.get()
        begin = time.perf_counter()
        try:
            done = subprocess.run(
                self._command(run),
                env=self._environment(device),
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            self._devices.put(device)
        if done.returncode:
            output = (done.stdout + done.stderr).strip()
            return self._fail(run, output[-2000:])
        facts = run.facts()
        told = " ".join(f"{n}={facts[n]}" for n in telling if n in facts)
        seconds = time.perf_counter() - begin
        return f"{done.stdout.strip().splitlines()[-1]} {told} {seconds:.0f} s"

    def _diverged(self, run):
        found = self.found(run)
        return found is not None and found["diverged"]

    def _fail(self, run, why):
        with self._lock:
            self.failed.append(run)
        return f"FAILED: {' '.join(run.flags())}\n{why}"

    def _command(self, run):
        command = [sys.executable, str(STUDY / "run.py"), *run.flags()]
        command.append(f"--output_dir={self._output_dir}")
        if FLAGS.data_dir:
            command.append(f"--data_dir={FLAGS.data_dir}")
        if FLAGS.backup:
            command.append("--backup")
        if FLAGS.jit_compile is not None:
            command.append(f"--jit_compile={FLAGS.jit_compile}")
        return command

    def _environment(self, device):
        environment = dict(os.environ)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        elif self._processes > 1:
            # Divides the cores among concurrent runs.
            share = max(1, (os.cpu_count() or 1) // self._processes)
            environment.setdefault("TF_NUM_INTRAOP_THREADS", str(share))
            environment.setdefault("TF_NUM_INTEROP_THREADS", "1")
        return environment


def what_differs(runs):
    """Returns the names of the settings in which some runs differ."""
    facts = [run.facts() for run in runs]
    names = dict.fromkeys(name for each in facts for name in each)
    return [
        name
        for name in names
        if len({json.dumps(each.get(name)) for each in facts}) > 1
    ]


def waves(grid, sweep):
    """Yields groups of runs in the order of their dependencies."""
    candidates = [run for cell in grid.cells for run in cell.candidates]
    yield [run.dense() for run in candidates if run.method == "imp"]
    yield candidates
    rest = [run for cell in grid.cells for run in after_choice(cell, sweep)]
    yield [run.dense() for run in rest if run.method == "imp"]
    yield rest


def after_choice(cell, sweep):
    """Returns the runs of the other seeds with the chosen settings."""
    if len(cell.seeds) == 1:
        return []
    chosen = tables.best(cell, sweep.found)
    return cell.rest(chosen) if chosen else []


def main(_):
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(output_dir, FLAGS.processes, FLAGS.devices)
    for path in FLAGS.grid:
        grid = Grid.read(path)
        print(f"{grid.title}: {path}", flush=True)
        for wave in waves(grid, sweep):
            if FLAGS.dry_run:
                for run in sweep.to_do(wave):
                    print(" ".join(run.flags()))
            else:
                sweep.run(wave)
        if not FLAGS.dry_run:
            text = tables.of_grid(grid, sweep.found)
            file = output_dir / f"{pathlib.Path(path).stem}.md"
            file.write_text(f"{text}\n")
            print(f"\n{text}\n")
    if sweep.failed:
        sys.exit(f"{len(sweep.failed)} runs failed; start again to retry them.")


if __name__ == "__main__":
    app.run(main)
