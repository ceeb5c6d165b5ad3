"""Checks that the tests catch small faults in the core, one at a time.

    python tests/mutants.py [numbers ...] [--tree=DIR] [-k=EXPRESSION]

Each fault replaces one text in one file of a copy of the tree. Then the tests
run that should fail. This is not a test itself, because it takes a quarter of
an hour. If a review or a user finds a fault that no test has caught, add it
here.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A fault.

    Args:
        fault: What is wrong, in words.
        file: The file in keras_bimp/_src.
        old: A text that occurs exactly once.
        new: Its replacement.
        tests: The files in tests that should fail, without `_test.py`.
        names: An expression for `pytest -k`, to run fewer of them.
    """

    fault: str
    file: str
    old: str
    new: str
    tests: str
    names: str = ""


MUTANTS = [
    Mutant(
        "ties go from the wrong end",
        "selection/scores.py",
        "np.flatnonzero(values == threshold)[:surplus]",
        "np.flatnonzero(values == threshold)[-surplus:]",
        "selection",
    ),
    Mutant(
        "of equal scores of large kernels too many stay",
        "selection/scores.py",
        "keep[ties[len(ties) - (count - np.count_nonzero(keep)) :]] = True",
        "keep[ties] = True",
        "selection",
    ),
    Mutant(
        "LAMP leaves a weight out of its own sum",
        "selection/allocations.py",
        "np.searchsorted(ordered, squares)",
        'np.searchsorted(ordered, squares, side="right")',
        "selection",
    ),
    Mutant(
        "ERK forgets what the dense kernels keep",
        "selection/allocations.py",
        "* sum(sizes) - sum(sizes[i] for i in dense)",
        "* sum(sizes)",
        "selection",
    ),
    Mutant(
        "a collapse is told but not prevented",
        "selection/choosing.py",
        "kept = allotment.keep(self._protected(budget), budget)",
        "kept = allotment.keep(self.bounds, budget)",
        "selection",
    ),
    Mutant(
        "the L2 norm of a filter is summed over the wrong axes",
        "selection/granularities.py",
        "np.sqrt(np.square(values / largest).sum((0, 1)))",
        "np.sqrt(np.square(values / largest).sum(0).max(0))",
        "granularity",
    ),
    Mutant(
        "N of M prunes N weights of M, not the others",
        "selection/granularities.py",
        "pruned[:, :, : self.m - self.n]",
        "pruned[:, :, : self.n]",
        "granularity",
    ),
    Mutant(
        "a masked weight leaks NaN into its gradient",
        "masking/mask_rules.py",
        "return where_kept(mask, kernel)",
        "return kernel * keras.ops.cast(mask, kernel.dtype)",
        "masking",
        "nan",
    ),
    Mutant(
        "moving statistics and seeds stay as they are",
        "masking/masked.py",
        "if value is not before.get(key)",
        "if value is None",
        "masking",
        "full_masks or stateful",
    ),
    Mutant(
        "negative weights count as zeros of today",
        "masking/masked.py",
        "as_array(kernel.variable, copy=False) != 0",
        "as_array(kernel.variable, copy=False) > 0",
        "masking",
        "todays_zeros",
    ),
    Mutant(
        "strip leaves its constraint on the kernel",
        "masking/stripping.py",
        "            release(variable)\n",
        "",
        "retraining",
        "mixes_entries_is_held or penalty",
    ),
    Mutant(
        "the optimizer remembers what is pruned",
        "slots.py",
        "[(kernel, 0.0), *pairs] if weights else pairs",
        "[(kernel, 0.0)]",
        "retraining",
        "every_optimizer",
    ),
    Mutant(
        "a slot that starts at 0.1 is set to 0",
        "slots.py",
        "(slot, starts.get(name, 0.0))",
        "(slot, 0.0)",
        "retraining",
        "every_optimizer",
    ),
    Mutant(
        "the line reaches 0 one iteration too early",
        "schedules/bodies.py",
        "xp.true_divide(steps - k, steps)",
        "xp.true_divide(steps - 1 - k, steps)",
        "schedules",
    ),
    Mutant(
        "the warm-up is rounded up",
        "schedules/schedule.py",
        "warm = int(self.warmup * self.steps)",
        "warm = math.ceil(self.warmup * self.steps)",
        "schedules",
    ),
    Mutant(
        "the discount forgets a square root",
        "schedules/discount.py",
        "norm_drop / math.sqrt(pruned_fraction)",
        "norm_drop / pruned_fraction",
        "schedules",
    ),
    Mutant(
        "a phase runs one iteration late",
        "schedules/joined.py",
        "schedule(ops.maximum(step - begins[i], 0))",
        "schedule(ops.maximum(step - begins[i] - 1, 0))",
        "schedules",
    ),
    Mutant(
        "the last cycle does not take the epochs that are left",
        "plan/cycles.py",
        "[share] * (cycles - 1) + [epochs - share * (cycles - 1)]",
        "[share] * cycles",
        "plan",
    ),
    Mutant(
        "an epoch that begins a phase belongs to the one before",
        "plan/plan.py",
        'return int(np.searchsorted(starts, epoch, side="right")) - 1',
        "return max(int(np.searchsorted(starts, epoch)) - 1, 0)",
        "retraining",
        "bimp_prunes_exactly",
    ),
    Mutant(
        "36% take a third cycle, by rounding",
        "plan/cycles.py",
        "math.log(0.8) - 1e-9",
        "math.log(0.8) + 1e-9",
        "plan",
    ),
    Mutant(
        "sparsity rises in equal steps, not in equal shares",
        "sparsity_schedules.py",
        "return 1.0 - (1.0 - target_sparsity) ** progress",
        "return target_sparsity * progress",
        "plan",
    ),
    Mutant(
        "the learning rate stays ours after the run",
        "retraining/prune_and_retrain.py",
        "            optimizers.uninstall(self.model.optimizer)\n",
        "            pass\n",
        "retraining",
        "rate_back or comes_back",
    ),
    Mutant(
        "a run taken up in mid-cycle starts the cycle over",
        "retraining/prune_and_retrain.py",
        "self._schedule.begin(current, count - into_phase)",
        "self._schedule.begin(current, count)",
        "retraining edge_cases",
        "initial_epoch or resuming or mid_run",
    ),
    Mutant(
        "the share removed is of all weights, not of those left",
        "retraining/pruning.py",
        "/ max(float(total - before), 1)",
        "/ max(float(total), 1)",
        "retraining",
        "discount or measured_by_what_was_left",
    ),
    Mutant(
        "a state that was altered is taken for whole",
        "backup/generations.py",
        "if file.read() != digest.digest():",
        "if len(file.read()) != len(digest.digest()):",
        "generations",
    ),
    Mutant(
        "one generation is kept, not two",
        "backup/generations.py",
        "for old in paths[_KEPT - 1 :]:",
        "for old in paths[_KEPT - 2 :]:",
        "generations",
    ),
    Mutant(
        "what a fit that dies began is not undone",
        "fitting.py",
        "        _put(model, outer)\n        fit.undo()\n",
        "        _put(model, outer)\n",
        "fitting",
        "leaves_all",
    ),
    Mutant(
        "a slot that is in no list is overlooked",
        "keras_internals/optimizer_state.py",
        "and id(other) not in known:",
        "and False:",
        "keras_internals",
        "slots",
    ),
    Mutant(
        "one batch is skipped too many",
        "backup/skipping.py",
        "if self._left <= 0:",
        "if self._left < 0:",
        "backup",
        "again_and_again",
    ),
    Mutant(
        "every epoch has the same order",
        "backup/epoch_data.py",
        "np.random.default_rng([self.seed, epoch])",
        "np.random.default_rng([self.seed])",
        "epoch_data",
    ),
    Mutant(
        "what a constant adds is subtracted from the bias",
        "shrinking/linear.py",
        "bias = self._sums(values) + (0.0 if bias is None else bias)",
        "bias = (0.0 if bias is None else bias) - self._sums(values)",
        "shrinking",
        "bias or between_two or concatenated",
    ),
    Mutant(
        "kept channels are aligned downwards",
        "shrinking/linear.py",
        "-(-left // align) * align",
        "left // align * align",
        "shrinking",
        "align",
    ),
    Mutant(
        "a product is taken for 0 only where all factors are",
        "shrinking/merging.py",
        "np.where(np.any([c == 0 for c in constants], axis=0), 0, result)",
        "np.where(np.all([c == 0 for c in constants], axis=0), 0, result)",
        "shrinking",
        "gate or merged",
    ),
    Mutant(
        "what is read by a second layer is folded all the same",
        "exporting/folding.py",
        "read[id(x)] == 1",
        "read[id(x)] >= 1",
        "folding",
    ),
    Mutant(
        "outputs of which one is NaN pass",
        "exporting/verifying.py",
        "    if not np.isfinite(found).all():\n        return np.inf\n",
        "",
        "exporting",
        "passes_unseen",
    ),
    Mutant(
        "what failed stays beside the path",
        "exporting/atomic_files.py",
        "    except BaseException as error:\n"
        "        shutil.rmtree(unfinished, ignore_errors=True)\n",
        "    except BaseException as error:\n",
        "exporting",
        "full_disk or not_left",
    ),
    Mutant(
        "a model that lost zeros is exported",
        "exporting/model_checks.py",
        "if kernels and zeros < progress.pruned:",
        "if kernels and zeros > progress.pruned:",
        "exporting",
        "lost or after_its_last",
    ),
]


def copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies files that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def outcome(mutant: Mutant, tree: pathlib.Path, also: str) -> tuple[str, str]:
    """Runs a mutant's tests.

    Args:
        mutant: The mutant.
        tree: The folder of the project.
        also: An additional filter for tests, as for `pytest -k`.

    Returns:
        The pair (word, last line that pytest printed).
    """
    with tempfile.TemporaryDirectory() as name:
        copy = pathlib.Path(name)
        copy_tree(tree, copy)
        path = copy / "keras_bimp" / "_src" / mutant.file
        text = path.read_text()
        if text.count(mutant.old) != 1:
            return "NOT APPLIED", f"{text.count(mutant.old)} places"
        path.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "--no-header"]
        command += ["--tb=no", "-p", "no:cacheprovider", "-p", "no:randomly"]
        command += [f"tests/{test}_test.py" for test in mutant.tests.split()]
        names = [f"({part})" for part in (mutant.names, also) if part]
        if names:
            command += ["-k", " and ".join(names)]
        done = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": name, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    # 1: tests failed. Others: nothing was run, or an error occurred.
    words = {0: "SURVIVED", 1: "caught"}
    lines = [line for line in done.stdout.splitlines() if "::" in line]
    lines += done.stdout.splitlines()[-1:]
    word = words.get(done.returncode, f"ERROR {done.returncode}")
    if word == "caught" and not lines[0].startswith("FAILED"):
        word = "ERROR in a fixture or import"
    return word, lines[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT)
    parser.add_argument("-k", default="", help="what all tests must meet")
    arguments = parser.parse_args()
    chosen = arguments.numbers or range(1, len(MUTANTS) + 1)
    caught = 0
    for number in chosen:
        mutant = MUTANTS[number - 1]
        begin = time.monotonic()
        word, line = outcome(mutant, arguments.tree, arguments.k)
        caught += word == "caught"
        seconds = time.monotonic() - begin
        print(f"{number:2} {word} ({seconds:.0f} s): {mutant.fault}")
        print(f"   {mutant.file}: {line}", flush=True)
    print(f"{caught} of {len(chosen)} caught")
    sys.exit(caught < len(chosen))


if __name__ == "__main__":
    main()
