"""Which sizes fit, what does not, and what would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import cached_model

from lieq_edge.device.fit import Fit, fit_model
from lieq_edge.device.profile import Profile, load_profile
from lieq_edge.errors import InputError
from lieq_edge.presets.sizes import preset_bytes
from lieq_edge.sources import open_source

SHAPE = {"hidden": 512, "intermediate": 1024, "blocks": 4}


@pytest.fixture(scope="module")
def model() -> str:
    return str(cached_model("llama", **SHAPE))


def device(spare: int, instructions: str = "neon-dotprod") -> Profile:
    pi = load_profile("pi5-4gb")
    return pi.model_copy(update={"instructions": instructions, "memory": spare + int(pi.system)})


@pytest.fixture(scope="module")
def roomy(model: str) -> Fit:
    return fit_model(model, "pi5-4gb", context=512)


def test_with_room_everything_fits_as_llama_cpp_loads_it(roomy: Fit, model: str) -> None:
    assert {size.loading for size in roomy.sizes} == {"mapped"}
    assert roomy.best == "Q8_0"
    assert roomy.largest_bpw == 16
    assert roomy.flags == ("--ctx-size 512", "--parallel 1", "--threads 4")
    source = open_source(model)
    for size in roomy.sizes:
        assert size.file_bytes == preset_bytes(source, size.name)
        assert size.memory == size.weights.mapped + roomy.context.total + roomy.run
    assert [size.file_bytes for size in roomy.sizes] == sorted(size.file_bytes for size in roomy.sizes)


def test_flags_follow_the_memory(roomy: Fit, model: str) -> None:
    size = next(size for size in roomy.sizes if size.name == "Q8_0")
    taken = roomy.context.total + roomy.run
    assert size.weights.mapped > size.weights.read > size.weights.plain
    for way, flag in (("mapped", ()), ("read", ("--load-mode none",)), ("plain", ("--no-repack",))):
        found = fit_model(model, device(taken + size.weights.of(way)), context=512)  # type: ignore[arg-type]
        assert found.best == "Q8_0"
        assert found.flags[3:] == flag
        assert next(s for s in found.sizes if s.name == "Q8_0").loading == way
    less = fit_model(model, device(taken + size.weights.plain - 1000), context=512)
    assert less.best != "Q8_0"
    assert next(s for s in less.sizes if s.name == "Q8_0").missing == 1000
    assert any(note.startswith("Q8_0 lacks 1.0 kB") for note in less.notes)


def test_without_another_layout_there_is_one_way(model: str) -> None:
    found = fit_model(model, device(10**9, "neon"), context=512)
    assert all(size.weights.mapped == size.weights.plain for size in found.sizes)


def test_smaller_keys_and_values_leave_more_room(model: str) -> None:
    small = fit_model(model, "pi5-4gb", context=8192, cache_type="q8_0")
    large = fit_model(model, "pi5-4gb", context=8192)
    assert small.context.cache == pytest.approx(large.context.cache * 8.5 / 16, rel=0.01)
    assert small.room > large.room
    assert "--cache-type-k q8_0" in small.flags
    assert "--cache-type-v q8_0" in small.flags


def test_a_gguf_file_is_one_of_the_sizes(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama", type="F16", **SHAPE)
    found = fit_model(path, "pi4-4gb", context=512)
    own = next(size for size in found.sizes if size.name == "itself")
    assert own.file_bytes == path.stat().st_size
    assert found.best == "itself"


def test_slow_sizes_do_not_count(roomy: Fit, model: str) -> None:
    paces = sorted(size.pace.decode for size in roomy.sizes)
    bound = (paces[-2] + paces[-1]) / 2
    found = fit_model(model, "pi5-4gb", context=512, min_tps=bound)
    assert [size.name for size in found.sizes if size.fits] == [found.best]
    with pytest.raises(InputError, match=r"fastest, Q2_K_S, is predicted to reach .* ask for less"):
        fit_model(model, "pi5-4gb", context=512, min_tps=2 * paces[-1])


def test_the_impossible_is_refused_with_what_would_do(roomy: Fit, model: str) -> None:
    smallest = min(size.weights.plain for size in roomy.sizes)
    short = device(smallest + roomy.context.total + roomy.run)
    spare = smallest + fit_model(model, "pi5-4gb", context=14000).context.total + roomy.run
    with pytest.raises(InputError, match=r"IQ2_XXS, a file of .* needs .*; with --context 16384 --kv q8_0 it would"):
        fit_model(model, device(spare), context=32768)
    assert fit_model(model, short, context=512).best == "IQ2_XXS"
    with pytest.raises(InputError, match=r"the system leaves 1.0 MB; with --kv q8_0 a device with .* would"):
        fit_model(model, device(1_000_000), context=512)


@pytest.mark.parametrize(("name", "value"), [("context", 0), ("min_tps", 0.0), ("min_tps", float("nan"))])
def test_numbers_out_of_range_are_refused(name: str, value: float, model: str) -> None:
    with pytest.raises(InputError):
        fit_model(model, "pi5-4gb", **{name: value})  # type: ignore[arg-type]


def test_no_pytorch_is_imported(model: str) -> None:
    code = (
        "import sys; from lieq_edge.device.fit import fit_model; "
        f"fit_model({model!r}, 'pi5-4gb'); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["False", "False"], done.stderr
