"""All runs of a grid, several at once, each in a process of its own.

A run that is finished is a line of `runs.jsonl` in `--output_dir` and is not
run again: stop whenever you like, and start again. What fails is told, and
tried again then. At the end come the tables and figures of the grid.

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
flags.DEFINE_multi_string("grid", None, "YAML file; may be given repeatedly.")
flags.DEFINE_integer("processes", 1, "Runs at a time.")
flags.DEFINE_list(
    "devices", [], "Values of CUDA_VISIBLE_DEVICES; a run has one for itself."
)
flags.DEFINE_bool("dry_run", False, "Only print what is to be run.")
flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps data.")
flags.DEFINE_string("output_dir", "output/study", "Where to write.")
flags.DEFINE_bool("jit_compile", None, "Whether to compile; Keras decides.")
flags.mark_flag_as_required("grid")

STUDY = pathlib.Path(__file__).parent


class Sweep:
    """Runs in processes of their own, and what came out of them.

    Args:
        output_dir: Folder of `runs.jsonl`.
        processes: How many at a time.
        devices: One of them is visible to each run.
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
        """What came out of a run, or `None`."""
        return self._found.get(run.key)

    def to_do(self, asked):
        """Those that are not finished, each once."""
        wanted = {run.key: run for run in asked}
        return [run for key, run in wanted.items() if key not in self._found]

    def run(self, asked):
        """Runs what is not finished."""
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
        if FLAGS.jit_compile is not None:
            command.append(f"--jit_compile={FLAGS.jit_compile}")
        return command

    def _environment(self, device):
        environment = dict(os.environ)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        elif self._processes > 1:
            # Runs that share the cores want a share each.
            share = max(1, (os.cpu_count() or 1) // self._processes)
            environment.setdefault("TF_NUM_INTRAOP_THREADS", str(share))
            environment.setdefault("TF_NUM_INTEROP_THREADS", "1")
        return environment


def what_differs(runs):
    """The names of the settings in which some runs differ."""
    facts = [run.facts() for run in runs]
    names = dict.fromkeys(name for each in facts for name in each)
    return [
        name
        for name in names
        if len({json.dumps(each.get(name)) for each in facts}) > 1
    ]


def waves(grid, sweep):
    """Runs in the order in which they need one another."""
    candidates = [run for cell in grid.cells for run in cell.candidates]
    yield [run.dense() for run in candidates if run.method == "imp"]
    yield candidates
    rest = [run for cell in grid.cells for run in after_choice(cell, sweep)]
    yield [run.dense() for run in rest if run.method == "imp"]
    yield rest


def after_choice(cell, sweep):
    """The runs of the other seeds, with the settings that were chosen."""
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
        sys.exit(f"{len(sweep.failed)} runs failed; start again to retry.")


if __name__ == "__main__":
    app.run(main)
