"""The table of networks, and the trials for it."""

import json

import keras
import pytest
from from_examples import STUDY
from from_examples import importable

import keras_bimp


@pytest.fixture(scope="module", autouse=True)
def study():
    with importable(STUDY):
        yield


def test_the_table_tells_what_works_and_why_something_does_not():
    from compatibility import table_of

    table = table_of(
        {
            "family": {
                "first": {
                    "wrap": "works",
                    "shrink": "works (50% left)",
                    "onnx": "ValueError: `x` must be. Received: x=1",
                },
                "second": {
                    "wrap": "ValueError: no fit. Received: x=1",
                    "onnx": "ValueError: `x` must be. Received: x=2",
                },
                "third": {
                    # Refused for the same reason, with another value.
                    "wrap": "ValueError: no fit. Received: x=2",
                    "onnx": "ValueError: `x` must be. Received: x=1",
                },
            }
        }
    ).splitlines()
    _, _, family, first, second, third, _, *notes = table
    assert family.startswith("| **family** |")
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[:2] == ["first", "✓"]
    assert cells[6] == "✓ (50% left)"
    assert cells[9] == "[1]"
    cells = [cell.strip() for cell in second.split("|")[1:-1]]
    assert (cells[1], cells[9]) == ("[2]", "[3]")
    cells = [cell.strip() for cell in third.split("|")[1:-1]]
    assert (cells[1], cells[9]) == ("[2]", "[1]")
    assert notes == [
        "1. `ValueError: `x` must be. Received: x=1`",
        "2. `ValueError: no fit. Received: x=1`",
        "3. `ValueError: `x` must be. Received: x=2`",
    ]


def test_a_sentence_is_one_line_without_colours():
    from trying import sentence

    error = ValueError("\x1b[1m`model` must\n be\x1b[0m built")
    assert sentence(error) == "ValueError: 'model' must be built"
    assert len(sentence(ValueError("x" * 1000))) < 450


@pytest.mark.slow
def test_a_network_is_tried_and_a_refusal_is_written_down(
    tmp_path, monkeypatch
):
    import trying

    def refuse(model, filepath, format):
        if format == "onnx":
            raise ValueError("`model` must be mended")

    monkeypatch.setattr(keras_bimp, "export", refuse)
    path = tmp_path / "results.json"
    trying.try_network("Timeseries forecasting, LSTM", path)
    results = json.loads(path.read_text())
    assert list(results) == list(trying.STEPS)
    assert results.pop("onnx") == "ValueError: 'model' must be mended"
    results.pop("shrink")
    assert set(results.values()) == {"works"}


def test_every_family_is_there():
    from foreign import FAMILIES

    members = {
        name
        for name, value in vars(keras.applications).items()
        if callable(value)
    }
    applications, hub, tutorials = FAMILIES.values()
    assert set(applications) <= members
    assert len(applications) >= 14
    assert len(hub) >= 15
    assert len(tutorials) >= 10
