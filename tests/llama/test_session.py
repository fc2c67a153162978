"""Inputs of matrices, handed over by llama.cpp's callback in the process beside this one."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from foreign import BLOCKS, CONTEXT, HIDDEN, foreign_model

from lieq_edge.errors import InputError
from lieq_edge.llama import child, layout
from lieq_edge.llama.session import Floats, LlamaSession, NotSeen, observed
from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.system import child as processes

TOKENS = np.arange(40, dtype=np.int64) + 5
NAMES = frozenset(f"blk.{index}.ffn_{role}.weight" for index in range(BLOCKS) for role in ("up", "down"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model(tmp_path_factory.mktemp("session") / "model.gguf", "internlm2")


def inputs(model: Path) -> dict[str, Floats]:
    """Inputs of all observed matrices for one text."""
    seen: dict[str, Floats] = {}

    def consume(name: str, x: Floats, matrix: int) -> None:
        assert (matrix, name in seen) == (0, False)
        seen[name] = x.copy()

    with observed(model, NAMES, consume, context=64, threads=1) as session:
        session.run(TOKENS)
    return seen


def test_inputs_larger_than_the_shared_memory_come_in_pieces(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = inputs(model)
    assert {name: x.shape for name, x in whole.items()} == dict.fromkeys(NAMES, (len(TOKENS), HIDDEN))
    # A worker of its own, which begins with less memory.
    child.shared().kill()
    start = "importlib.import_module"
    small = f"importlib.import_module('lieq_edge.llama.shared_memory').SIZE = {4 * HIDDEN * 7}"
    assert start in processes._START
    monkeypatch.setattr(processes, "_START", processes._START.replace(start, f"{small}\n{start}", 1))
    pieces = inputs(model)
    child.shared().kill()
    for name, x in whole.items():
        assert np.array_equal(pieces[name], x)


@pytest.mark.parametrize("error", [InputError("not a number"), ZeroDivisionError("mean")])
def test_an_error_of_the_observer_stops_the_run_and_nothing_else(model: Path, error: Exception) -> None:
    vocabulary = Vocabulary(model)
    calls = []

    def consume(name: str, x: Floats, matrix: int) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise error

    with observed(model, NAMES, consume, context=64, threads=1) as session:
        with pytest.raises(type(error), match=str(error)):
            session.run(TOKENS)
        assert len(calls) == 2
        assert vocabulary._loaded.alive
        session.run(TOKENS)
        assert len(calls) == 2 + len(NAMES)


def test_ctrl_c_in_the_observer_ends_the_worker(model: Path) -> None:
    def consume(name: str, x: Floats, matrix: int) -> None:
        raise KeyboardInterrupt

    session = LlamaSession(model, context=64, threads=1, observe=(NAMES, consume))
    with pytest.raises(KeyboardInterrupt):
        session.run(TOKENS)
    with pytest.raises(InputError, match="was stopped"):
        session.run(TOKENS)
    assert len(inputs(model)) == len(NAMES)


def test_an_observer_cannot_use_llama_cpp(model: Path) -> None:
    vocabulary = Vocabulary(model)

    def consume(name: str, x: Floats, matrix: int) -> None:
        vocabulary.tokenize("The quick")

    with (
        observed(model, NAMES, consume, context=64, threads=1) as session,
        pytest.raises(RuntimeError, match="from within"),
    ):
        session.run(TOKENS)


def test_another_layout_of_tensors_is_noticed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(ctypes.Structure):
        """A structure with one field more than the installed ggml has."""

        _fields_ = [("extra", ctypes.c_int64), *layout.Tensor._fields_]

    monkeypatch.setattr(layout, "_checked", False)
    layout.check_layout()
    monkeypatch.setattr(layout, "_checked", False)
    monkeypatch.setattr(layout, "Tensor", Longer)
    with pytest.raises(NotSeen, match="another layout"), observed(model, NAMES, print, context=64, threads=1):
        pass


def test_steps_give_the_logits_of_each_sequence(model: Path) -> None:
    sequences = np.array([[5, 6, 7], [9, 8, 7]])
    with LlamaSession(model, context=16, sequences=2, threads=1) as session:
        together = [session.step(sequences[:, place], place).copy() for place in range(3)]
        session.forget()
        again = session.step(sequences[:, 0], 0)
        assert np.array_equal(again, together[0])
    for index, sequence in enumerate(sequences):
        with LlamaSession(model, context=16, threads=1) as session:
            for place, token in enumerate(sequence):
                alone = session.step(np.array([token]), place)
                # Keys and values have 16 bits.
                assert np.abs(alone[0] - together[place][index]).max() < 0.02
                assert np.abs(alone[0] - together[place][1 - index]).max() > 0.2


def test_the_memory_of_the_worker_is_known(model: Path) -> None:
    Vocabulary(model)
    before = child.peak_bytes()
    assert before > 1 << 24
    with LlamaSession(model, context=CONTEXT, sequences=64, threads=1):
        assert child.peak_bytes() > before
    child.shared().kill()
    assert child.peak_bytes() == 0
