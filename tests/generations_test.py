import json
import pathlib
import random
import shutil
import subprocess
import sys
import tracemalloc
import warnings

import kill_writer
import ml_dtypes
import numpy as np
import pytest

from keras_bimp._src.backup import Generations
from keras_bimp._src.backup import generations
from keras_bimp.backup import UnreadableError


def state(number=1):
    return {
        "number": number,
        "nothing": None,
        "text": "ä",
        "nested": [True, {"x": np.full((2, 3), number, "float32")}],
        "half": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(7),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "numpy": np.float32(0.1),
        "nan": float("nan"),
    }


def assert_equal(read, written):
    assert read.keys() == written.keys()
    for name in ("empty", "scalar", "transposed", "half"):
        assert read[name].dtype == written[name].dtype
        assert read[name].shape == written[name].shape
        np.testing.assert_array_equal(read[name], written[name])
    np.testing.assert_array_equal(
        read["nested"][1]["x"], written["nested"][1]["x"]
    )
    assert read["nested"][0] is True
    assert read["nothing"] is None
    assert (read["number"], read["text"]) == (written["number"], "ä")
    assert np.float32(read["numpy"]) == written["numpy"]
    assert np.isnan(read["nan"])


def test_a_state_comes_back_and_two_generations_are_kept(tmp_path):
    keeper = Generations(tmp_path / "new" / "folder")
    keeper.prepare()
    assert keeper.read() is None
    for number in range(4):
        path = keeper.write(state(number))
        assert keeper.paths()[0] == path
        assert_equal(keeper.read(), state(number))
    names = sorted(p.name for p in keeper.folder.iterdir())
    assert names == ["00000002.state", "00000003.state"]


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["a"]), np.zeros(2, ">f4"), {1}]
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(value, tmp_path):
    keeper = Generations(tmp_path)
    keeper.write(state())
    with pytest.raises(TypeError):
        keeper.write({"value": value})
    assert len(list(tmp_path.iterdir())) == 1


def damaged(content):
    """Yields names and contents of damaged files."""
    rng = random.Random(0)
    for length in (0, 1, 20, 100, len(content) // 2, len(content) - 1):
        yield f"cut at {length}", content[:length]
    for _ in range(100):
        position, bit = rng.randrange(len(content)), rng.randrange(8)
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        yield f"bit {bit} of {position}", bytes(flipped)
    yield "longer", content + b"\0"
    yield "foreign", b"PK\x03\x04" + content


def test_a_damaged_file_is_told_and_the_one_before_is_taken(tmp_path):
    keeper = Generations(tmp_path)
    older = keeper.write(state(1))
    newer = keeper.write(state(2))
    good, content = older.read_bytes(), newer.read_bytes()
    for name, bad in damaged(content):
        newer.write_bytes(bad)
        with pytest.warns(UserWarning, match=newer.name) as told:
            read = keeper.read()
        assert len(told) == 1, name
        assert str(newer) in str(told[0].message)
        assert_equal(read, state(1))
        assert older.read_bytes() == good
        with pytest.raises(UnreadableError):
            generations.read_file(newer)
    older.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=r"\.state"),
        pytest.raises(UnreadableError),
    ):
        keeper.read()


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    # An intact file, including its SHA-256, that claims a huge size.
    path = tmp_path / "00000000.state"
    for dtype, shape in (
        ("float64", [2**40]),
        ("float64", [2**62, 2**62]),
        ("object", [1]),
        ("float32", [-1]),
        ("float32", [1.0]),
    ):
        header = json.dumps(
            {"state": {"x": {"__array__": 0}}, "arrays": [[dtype, shape]]}
        ).encode()
        content = (
            generations._MAGIC + len(header).to_bytes(8, "little") + header
        )
        digest = generations.hashlib.sha256(content).digest()
        path.write_bytes(content + digest)
        tracemalloc.start()
        with pytest.raises(UnreadableError, match="header"):
            generations.read_file(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20_000_000


def test_what_a_dead_writer_left_is_removed(tmp_path):
    keeper = Generations(tmp_path)
    keeper.write(state())
    (tmp_path / "00000001.state.unfinished").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    keeper.prepare()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["00000000.state", "notes.txt"]
    assert_equal(keeper.read(), state())


# Runs in a separate mount namespace.
FULL = """
mount -t tmpfs -o size=1m tmpfs {folder} || exit 77
{python} - {module} {folder} <<'END'
import errno, importlib.util, pathlib, sys
import numpy as np
spec = importlib.util.spec_from_file_location("generations", sys.argv[1])
generations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generations)
folder = pathlib.Path(sys.argv[2])
keeper = generations.Generations(folder)
keeper.write({{"x": np.zeros(50_000)}})
keeper.write({{"x": np.ones(50_000)}})
before = {{p.name: p.read_bytes() for p in folder.iterdir()}}
try:
    keeper.write({{"x": np.zeros(50_000)}})
except OSError as error:
    assert error.errno == errno.ENOSPC
else:
    raise AssertionError("it fitted")
assert {{p.name: p.read_bytes() for p in folder.iterdir()}} == before
assert (keeper.read()["x"] == 1).all()
END
[ $? = 0 ] || exit 1
mount -o remount,ro {folder} || exit 77
{python} - {module} {folder} <<'END'
import errno, importlib.util, sys
spec = importlib.util.spec_from_file_location("generations", sys.argv[1])
generations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generations)
keeper = generations.Generations(sys.argv[2])
try:
    keeper.prepare()
except OSError as error:
    assert error.errno == errno.EROFS
else:
    raise AssertionError("it is not read-only")
assert (keeper.read()["x"] == 1).all()
END
"""


def test_a_full_and_a_read_only_disk_leave_the_generations_there(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    script = FULL.format(
        folder=tmp_path, python=sys.executable, module=kill_writer.MODULE
    )
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script],
        capture_output=True,
        text=True,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"may not mount: {done.stderr}")
    assert not done.returncode, done.stderr


def test_a_killed_writer_leaves_nothing_unreadable(tmp_path):
    found = kill_writer.kill_ours(pathlib.Path(tmp_path), 20, random.Random(1))
    assert found["kills"] == 20
    assert found["in a write"] >= 5
    assert (found["unreadable"], found["lost"], found["warnings"]) == (0, 0, 0)


def test_no_warning_where_all_is_well(tmp_path):
    keeper = Generations(tmp_path)
    keeper.write(state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keeper.read()
