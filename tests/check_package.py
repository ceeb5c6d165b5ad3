"""Builds the package, installs it into an empty environment and uses it.

Takes minutes, downloads TensorFlow, and prints results:

    python tests/check_package.py

The README's first example runs there, outside of this checkout, with the
network and the data below.
"""

import argparse
import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile

import code_blocks

ROOT = pathlib.Path(__file__).parent.parent
TOOLS = ("build", "twine")
BEFORE = """
import keras
import numpy as np

rng = np.random.default_rng(0)
x, y = rng.random((256, 8, 8, 1), "float32"), rng.integers(10, size=256)
x_test, y_test = x[:64], y[:64]


def build_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
"""
AFTER = """
import pathlib

zeros = keras_bimp.sparsity(keras.models.load_model("model.keras"))
print(f"sparsity of the saved model: {zeros.prunable:.4f}")
assert abs(zeros.prunable - 0.95) < 1e-3
assert pathlib.Path("saved_model/1/saved_model.pb").exists()
assert pathlib.Path("report.html").exists()
assert "site-packages" in keras_bimp.__file__, keras_bimp.__file__
"""


def environment(folder, *packages):
    """Creates a virtual environment and returns its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", *packages)
    return python


def run(*command, **kwargs):
    """Runs a command and returns its output, or exits if it fails."""
    begin = time.time()
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=without_this_checkout(),
        **kwargs,
    )
    words = " ".join(str(part) for part in command[1:6])
    print(f"{time.time() - begin:7.1f} s  {words}", flush=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def without_this_checkout():
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def check_wheel(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"keras_bimp", metadata.partition("/")[0]}, folders
    for file in ("LICENSE", "reporting/page.html.jinja"):
        assert any(name.endswith(file) for name in names), names
    said = email.message_from_string(text)
    description = said.get_payload()
    assert description.startswith("# keras_bimp"), description[:80]
    local = re.findall(r"\]\((?!https?://)[^)]*\)", description)
    assert not local, f"An index cannot show {local}"
    size = path.stat().st_size / 1000
    print(f"{path.name}: {len(names)} files, {size:.0f} kB, {said['Version']}")


def check_sdist(path):
    with tarfile.open(path) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "setup.py",
        "docs/concepts.md",
        "examples/digits.py",
        "keras_bimp/_src/reporting/page.html.jinja",
        "keras_bimp/_src/version.py",
        "tests/docs_test.py",
    ):
        assert name in names, name
    assert not [name for name in names if "__pycache__" in name]
    size = path.stat().st_size / 1000
    print(f"{path.name}: {len(names)} files, {size:.0f} kB")


def first_example():
    """Returns the README's first block and the one after it."""
    blocks = code_blocks.python_blocks((ROOT / "README.md").read_text())
    return "\n".join([BEFORE, blocks[0].code, blocks[1].code, AFTER])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="Where to work; else a new one.")
    folder = parser.parse_args().folder or tempfile.mkdtemp()
    folder = pathlib.Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    dist = folder / "dist"
    shutil.rmtree(dist, ignore_errors=True)

    tools = environment(folder / "tools", *TOOLS)
    run(tools, "-m", "build", "-o", dist, ROOT)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    print(run(tools, "-m", "twine", "check", "--strict", wheel, sdist).strip())
    check_wheel(wheel)
    check_sdist(sdist)

    empty = environment(folder / "empty", f"{wheel}[tensorflow-cpu,report]")
    print(run(empty, "-m", "pip", "check").strip())
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "program.py").write_text(first_example())
    print(run(empty, "program.py", cwd=work)[-3000:])
    print(f"All is well. {folder} may be deleted.")


if __name__ == "__main__":
    main()
