"""Speed, load time and memory of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.llama import child, speed
from lieq_edge.llama.speed import measure_speed
from lieq_edge.system.progress import Event, reporting_to


def test_a_file_is_measured(tiny_gguf: Callable[..., Path]) -> None:
    events: list[Event] = []
    with reporting_to(events.append):
        # The quickest of several: a prompt takes half a millisecond here, and other programs some at a time.
        measured = measure_speed(tiny_gguf(), prompt=40, generated=8, repeats=8, threads=1, quickest=True)
    assert measured.prefill > measured.decode > 0  # tokens of a prompt share the reading of the weights
    assert 0 < measured.load_seconds < 60
    # Python and numpy alone take more than the lower bound.
    assert 1e7 < measured.peak_bytes < 2e9
    assert (measured.threads, measured.prompt, measured.generated) == (1, 40, 8)
    assert [event.done for event in events] == [*range(10)]


def test_values_are_medians_of_the_repeats(tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"time_prefill": iter([9.0, 1.0, 4.0, 2.0]), "time_decode": iter([9.0, 0.5, 8.0, 2.0])}
    call = child.Child.call

    def fixed(self: child.Child, name: str, *arguments: object, **options: object) -> object:
        result = call(self, name, *arguments, **options)  # type: ignore[arg-type]
        return next(taken[name]) if name in taken else result

    monkeypatch.setattr(child.Child, "call", fixed)
    measured = measure_speed(tiny_gguf(), prompt=40, generated=8, repeats=3, threads=1)
    assert (measured.prefill, measured.decode) == (20, 4)


def test_the_quickest_of_the_repeats_can_be_taken(
    tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"time_prefill": iter([9.0, 4.0, 1.0]), "time_decode": iter([9.0, 0.5, 8.0])}
    call = child.Child.call

    def fixed(self: child.Child, name: str, *arguments: object, **options: object) -> object:
        result = call(self, name, *arguments, **options)  # type: ignore[arg-type]
        return next(taken[name]) if name in taken else result

    monkeypatch.setattr(child.Child, "call", fixed)
    measured = measure_speed(tiny_gguf(), prompt=40, generated=8, repeats=2, threads=1, quickest=True)
    assert (measured.prefill, measured.decode) == (40, 16)


def test_a_prompt_longer_than_a_batch_runs(tiny_gguf: Callable[..., Path]) -> None:
    assert measure_speed(tiny_gguf(), prompt=2100, generated=1, repeats=1, threads=1).prefill > 0


def test_the_process_ends_with_the_measurement(tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[child.Child] = []

    class Kept(child.Child):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(speed, "Child", Kept)
    measure_speed(tiny_gguf(), prompt=8, generated=2, repeats=1, threads=1)
    assert [one.alive for one in made] == [False]


@pytest.mark.parametrize("name", ["prompt", "generated", "repeats", "threads"])
def test_numbers_below_one_are_refused(tiny_gguf: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match=name):
        measure_speed(tiny_gguf(), **{name: 0})  # type: ignore[arg-type]


def test_a_missing_file_and_a_foreign_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        measure_speed(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(InputError, match="is not a GGUF file"):
        measure_speed(tmp_path / "text.gguf")


def test_learned_positions_are_a_limit(tiny_gguf: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="positions for 64 tokens only"):
        measure_speed(tiny_gguf("gpt2", context=64, heads=(4, 4)), prompt=65)
