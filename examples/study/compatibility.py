"""Tests which third-party networks can be wrapped, trained, exported ...

Each network runs in a separate process, so that a crash is a row of the table.
Results are JSON files in `--results`. A second call tries only the networks
that have none. Writes the table as Markdown.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import trying
from absl import app
from absl import flags
from foreign import FAMILIES

FLAGS = flags.FLAGS
flags.DEFINE_string("results", "compatibility", "Folder of JSON files.")
flags.DEFINE_string("table", None, "Markdown file whose table to replace.")
flags.DEFINE_string("networks", "", "Regex of networks. Defaults to all.")
flags.DEFINE_boolean("again", False, "Whether to repeat finished networks.")
flags.DEFINE_integer("minutes", 20, "Time limit for each network.")
flags.DEFINE_string("only", None, "Try this one network in this process.")

_BEGIN, _END = "<!-- begin of the table -->", "<!-- end of the table -->"


def result_path(name: str) -> pathlib.Path:
    """Returns the path of a network's results."""
    stem = re.sub(r"\W+", "_", name).lower()
    return pathlib.Path(FLAGS.results) / f"{stem}.json"


def in_own_process(name: str) -> None:
    """Tries one network; if the process dies, its results say so."""
    begin = time.time()
    command = [sys.executable, __file__, *sys.argv[1:], f"--only={name}"]
    log = result_path(name).with_suffix(".log")
    try:
        with log.open("w") as out:
            code = subprocess.run(
                command, stdout=out, stderr=out, timeout=60 * FLAGS.minutes
            ).returncode
        ended = f"The process ended with code {code}." if code else None
    except subprocess.TimeoutExpired:
        ended = f"Given up after {FLAGS.minutes} minutes."
    path = result_path(name)
    results = json.loads(path.read_text()) if path.exists() else {}
    if ended:
        step = next((s for s in trying.STEPS if s not in results), "wrap")
        results[step] = ended
    results["seconds"] = round(time.time() - begin)
    path.write_text(json.dumps(results, indent=1))
    print(f"{name}: {results['seconds']} s", flush=True)


def table_of(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """Returns the table in Markdown, with error messages below it.

    Args:
        results: Family -> network -> step -> result.
    """
    notes, lines = {}, []
    for family, networks in results.items():
        if not networks:
            continue
        lines += [f"| **{family}** |" + " |" * len(trying.STEPS)]
        for name, said in networks.items():
            cells = [_cell(step, said, notes) for step in trying.STEPS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    head = "| network | " + " | ".join(trying.STEPS.values()) + " |"
    rule = "|---" * (len(trying.STEPS) + 1) + "|"
    below = [f"{number}. `{said}`" for number, said in notes.values()]
    return "\n".join([head, rule, *lines, "", *below])


def _cell(step, results, notes):
    said = results.get(step)
    if said is None:
        return ""
    if said.startswith("works"):
        return said.replace("works", "✓", 1)
    # Messages differ in the names of what was received, so the first one is
    # shown. For converters, what they lack is the important part.
    kind = said
    if step not in trying.FORMATS:
        kind = said.partition("Received:")[0]
    number, _ = notes.setdefault(kind, (len(notes) + 1, said))
    return f"[{number}]"


def write_table(path: pathlib.Path) -> None:
    """Replaces the table in a page."""
    results = {
        family: {
            name: json.loads(result_path(name).read_text())
            for name in networks
            if result_path(name).exists()
        }
        for family, networks in FAMILIES.items()
    }
    page = path.read_text()
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    table = table_of(results)
    path.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}")


def main(_):
    pathlib.Path(FLAGS.results).mkdir(parents=True, exist_ok=True)
    if FLAGS.only:
        trying.try_network(FLAGS.only, result_path(FLAGS.only))
        return
    names = [name for networks in FAMILIES.values() for name in networks]
    for name in names:
        done = result_path(name).exists() and not FLAGS.again
        if re.search(FLAGS.networks, name) and not done:
            in_own_process(name)
    if FLAGS.table:
        write_table(pathlib.Path(FLAGS.table))


if __name__ == "__main__":
    app.run(main)
