"""The residual stream of the original is stored, read again, and computed again where files are lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_model

from lieq_edge.blockwise import residual
from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.partial_runs import input_of
from lieq_edge.blockwise.precision import fast_products
from lieq_edge.blockwise.residual import ResidualStream, StoredStates, Written
from lieq_edge.rounding.drift import Stream
from lieq_edge.sources import open_source
from lieq_edge.store import Run

TOKENS = torch.randint(0, 300, (4, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are stored in files, however small they are."""
    monkeypatch.setattr(residual, "is_little_memory", lambda size: False)


def model_of(folder: Path, family: str = "llama") -> BlockModel:
    return BlockModel(open_source(str(make_model(folder, family))), keep_blocks=False)


@given(st.integers(-80, 110), st.integers(0, 8))
def test_sixteen_bits_are_an_eighth_as_coarse_as_bfloat16s(power: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Channels differ by three powers of ten, as in a model.
    exact = torch.randn(2, 8, 16, generator=generator) * torch.logspace(0, 3, 16) * 2.0**power
    hidden = exact.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stored = StoredStates.of(hidden)
    assert stored.values.dtype == torch.float16
    assert torch.equal(stored[:], hidden)
    assert torch.equal(stored[1:2], hidden[1:2])
    error, allowed = (hidden - exact).abs(), exact.abs() * 2.0**-11 + exact.abs().max() * 2.0**-39
    assert bool((error <= allowed).all())


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_constant_hidden_states_stay_as_they_are(value: float) -> None:
    hidden = torch.full((1, 2, 4), value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(StoredStates.of(hidden)[:], torch.full((1, 2, 4), value), equal_nan=True)


def test_without_bfloat16_nothing_is_rounded() -> None:
    hidden = torch.randn(2, 4, 8)
    assert StoredStates.of(hidden).values is hidden


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("fast", [False, True])
def test_lost_files_are_computed_again_with_the_same_values(tmp_path: Path, fast: bool) -> None:
    model = model_of(tmp_path / "model")
    count = model.n_blocks
    with fast_products(fast), Run(tmp_path / "run") as run, Run(None) as nowhere:
        stream = ResidualStream(model, TOKENS, run, inside=True)
        last = stream.forward()
        inputs = [stream.take(index) for index in range(count + 1)]
        written = [stream.written(index) for index in range(count)]
        assert torch.equal(inputs[count], last)
        assert torch.equal(ResidualStream(model, TOKENS, run).forward(), last)
        stored = sorted(path.name for path in (tmp_path / "run").glob("inside.*"))
        assert len(stored) == count
        # Without a folder, states inside blocks are not stored.
        other = ResidualStream(model, TOKENS, nowhere, inside=True)
        assert torch.equal(other.forward(), last)
        for index in range(count):
            _assert_same(written[index], other.written(index))
        for index in reversed(range(count)):
            stream.drop(index)
            run.drop(f"inside.{index}")
            assert torch.equal(stream.take(index), inputs[index])
            _assert_same(written[index], stream.written(index))
        run.drop(f"input.{count}")
        assert torch.equal(stream.forward(), last)


def _assert_same(one: Written | None, other: Written | None) -> None:
    assert one is not None
    assert other is not None
    assert one.scale == other.scale
    assert list(one.streams) == list(other.streams)
    for name, stored in one.streams.items():
        assert torch.equal(stored[:], other.streams[name][:])


@pytest.mark.parametrize("fast", [False, True])
def test_small_states_stay_in_memory_and_are_freed_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    model = model_of(tmp_path / "model")
    blocks = range(model.n_blocks)
    with fast_products(fast), Run(tmp_path / "memory") as run, Run(tmp_path / "disk") as other:
        stream = ResidualStream(model, TOKENS, run, inside=True)
        last = stream.forward()
        with monkeypatch.context() as patched:
            patched.setattr(residual, "is_little_memory", lambda size: False)
            files = ResidualStream(model, TOKENS, other, inside=True)
            assert torch.equal(files.forward(), last)
        for index in blocks:
            assert torch.equal(stream.take(index), files.take(index))
        assert [path.name for path in (tmp_path / "memory").iterdir()] == ["lock"]
        # Twice, as if the results of rounding after the first were lost.
        for _ in range(2):
            for index in blocks:
                _assert_same(stream.written(index), files.written(index))
            assert set(stream._storage._in_process) == {f"input.{len(blocks)}"}
        # As if earlier blocks were rounded by a process that was killed.
        resumed = ResidualStream(model, TOKENS, run, inside=True)
        resumed.forward()
        for index in blocks[1:]:
            _assert_same(resumed.written(index), files.written(index))
        assert set(resumed._storage._in_process) == {f"input.{len(blocks)}"}


@pytest.mark.usefixtures("on_disk")
def test_an_interrupted_forward_pass_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(tmp_path / "model")
    with Run(None) as run:
        expected = ResidualStream(model, TOKENS, run).forward()
    ran: list[int] = []
    advance = BlockModel.advance

    def counted(self: BlockModel, module: torch.nn.Module, index: int, hidden: torch.Tensor) -> None:
        ran.append(index)
        advance(self, module, index, hidden)

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockModel, "advance", counted)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "run") as run:
        ResidualStream(model, TOKENS, run).forward(stop)
    with Run(tmp_path / "run") as run:
        assert torch.equal(ResidualStream(model, TOKENS, run).forward(), expected)
    assert ran == list(range(model.n_blocks))


@pytest.mark.usefixtures("on_disk")
def test_states_that_would_fill_the_cache_are_not_stored(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model")
    with Run(tmp_path / "run", limit=1000) as run:
        ResidualStream(model, TOKENS, run, inside=True).forward()
        assert not list((tmp_path / "run").glob("inside.*"))


@pytest.mark.parametrize(("family", "scale"), [("llama", 1.0), ("qwen2", 1.0), ("granite", None), ("gpt2", 1.0)])
def test_the_stream_is_known_where_a_block_writes_to_it(tmp_path: Path, family: str, scale: float | None) -> None:
    model = model_of(tmp_path / "model", family)
    with torch.no_grad(), Run(None) as run:
        original = ResidualStream(model, TOKENS, run, inside=True)
        original.forward()
        hidden, written = original.take(0), original.written(0)
        assert written is not None
        assert written.scale == pytest.approx(scale or model.config.residual_multiplier, rel=1e-3)
        names = list(written.streams)
        with model.block(0) as module:
            torch.testing.assert_close(written.streams[names[1]][:], model.run_block(module, 0, hidden))
            # The original has not drifted, so the outputs are the wanted ones.
            linears = model.linears(module, 0)
            for count, name in enumerate(names):
                stream = Stream(written, slice(0, 4), hidden)
                x = input_of(model, module, 0, hidden, name, dict.fromkeys(names[:count], stream.write))
                torch.testing.assert_close(stream.missing(name), linears[name](x), rtol=0, atol=1e-4)
    assert names == ["blk.0.attn_output.weight", "blk.0.ffn_down.weight"]


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "olmo2"])
def test_the_stream_is_unknown_inside_blocks_with_norms_after_their_outputs(tmp_path: Path, family: str) -> None:
    model = model_of(tmp_path / "model", family)
    with torch.no_grad(), Run(tmp_path / "run") as run:
        original = ResidualStream(model, TOKENS, run, inside=True)
        original.forward()
        assert original.written(0) is None
        hidden = original.take(0)
        with model.block(0) as module:
            torch.testing.assert_close(original.take(1), model.run_block(module, 0, hidden))
