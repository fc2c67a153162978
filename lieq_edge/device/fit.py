"""Which sizes of a model fit a device, and with which flags of llama.cpp."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from ..errors import InputError
from ..llama.memory import ContextMemory, simulate_contexts
from ..presets.names import USUAL
from ..presets.original import Layout, layout_of
from ..presets.sizes import preset_contents
from ..sources import Source, open_source
from ..system.units import size_text
from .memory import FLAGS, Loading, WeightMemory, least_loading, room_for_weights, run_memory, weight_memory
from .pace import Matrix, Pace, Work, predict_pace, read_work, work_of
from .profile import Profile, load_profile

PRESETS = ("IQ2_XXS", "IQ3_XXS", *USUAL)
"""Presets whose sizes are tried."""

ITSELF = "itself"
"""Name of the size of a GGUF file as it is."""

_FEWEST_TOKENS = 512
_SMALL_CACHE = "q8_0"
_MOST_BITS = 16.0
_MOST_TOKENS = 1 << 24
# By which prompts are slower in a type's own layout: 1.9, 1.9 and 2.6 for Q4_K, Q5_K and Q6_K on a Raspberry Pi 5
# (llama.cpp PRs 17494, 19356 and 19360); answers are not.
_PLAIN_SLOWDOWN = 2


@dataclass(frozen=True)
class Size:
    """One size of the model on the device.

    Attributes:
        name: name of llama.cpp's preset, or ``itself``.
        file_bytes: bytes of the file.
        bpw: bits a weight over all weights.
        weights: memory of the weights by the way to load them.
        loading: the first way by which it fits; None if it does not.
        memory: bytes of everything by that way, or by the smallest way.
        missing: bytes that lack; 0 if it fits.
        pace: predicted speed.
        fast_enough: the answer is as fast as was asked for.
    """

    name: str
    file_bytes: int
    bpw: float
    weights: WeightMemory
    loading: Loading | None
    memory: int
    missing: int
    pace: Pace
    fast_enough: bool

    @property
    def fits(self) -> bool:
        """It fits, and is fast enough."""
        return self.loading is not None and self.fast_enough


@dataclass(frozen=True)
class Fit:
    """What fits a device.

    Attributes:
        model: the user's name for the model.
        device: profile of the device.
        min_tps: least tokens a second of an answer; None for any.
        context: memory of the context.
        run: bytes of llama.cpp itself and the tokenizer.
        room: bytes that are left for weights.
        largest_bpw: bits a weight, over all weights, of the largest file that fits; 16 at most.
        sizes: the sizes, the smallest first.
        best: name of the largest size that fits.
        flags: llama.cpp's flags for it.
        notes: sentences about what is given up, and where the numbers are from.
    """

    model: str
    device: Profile
    min_tps: float | None
    context: ContextMemory
    run: int
    room: int
    largest_bpw: float
    sizes: tuple[Size, ...]
    best: str
    flags: tuple[str, ...]
    notes: tuple[str, ...]


def fit_model(
    model: str | Path,
    device: str | Path | Profile,
    *,
    context: int = 4096,
    cache_type: str = "f16",
    min_tps: float | None = None,
    memory: int | None = None,
    revision: str | None = None,
) -> Fit:
    """Say which sizes of a model fit a device. Of the model only the header is read.

    Args:
        model: Hugging Face directory, hub id, ``.gguf`` file or ``demo``.
        device: its profile, the name of an installed one, or the path of one.
        context: tokens of a conversation.
        cache_type: type of keys and values, one of ``llama.memory.CACHE_TYPES``.
        min_tps: least tokens a second of an answer at an empty context.
        memory: bytes of memory, if the device has other than its profile says.
        revision: branch, tag or commit of a hub id.

    Raises:
        InputError: model or device are unknown, or nothing fits; the sentence then says what would.
    """
    profile = device if isinstance(device, Profile) else load_profile(device)
    if memory is not None:
        profile = profile.with_memory(memory)
    if not 1 <= context <= _MOST_TOKENS:
        raise InputError(f"The context has to be 1 to {_MOST_TOKENS} tokens; got {context}.")
    if min_tps is not None and not 0 < min_tps < 1e9:
        raise InputError(f"The least speed has to be a number of tokens a second above 0; got {min_tps:g}.")
    source = open_source(str(model), revision=revision)
    with layout_of(source) as layout:
        return _Fitting(source, layout, profile, min_tps).fit(context, cache_type)


def weight_room(source: Source, profile: Profile, context: int, cache_type: str) -> int:
    """Bytes that a device leaves for the weights of a model, beside a context of its.

    Raises:
        InputError: it leaves none.
    """
    with layout_of(source) as layout:
        fitting = _Fitting(source, layout, profile, None)
        (made,) = simulate_contexts(layout.path, [(context, cache_type)], label=source.label)
    room = room_for_weights(profile.spare, made, fitting.run)
    if room <= 0:
        raise InputError(
            f"{profile.name} has {size_text(profile.spare)} to spare, and a context of {context} tokens of "
            f"{source.label} alone takes {size_text(made.total + fitting.run)}; take a smaller --context-size or --kv "
            f"{_SMALL_CACHE}."
        )
    return room


class _Fitting:
    """A model and a device."""

    def __init__(self, source: Source, layout: Layout, profile: Profile, min_tps: float | None) -> None:
        self.source, self.layout, self.profile, self.min_tps = source, layout, profile, min_tps
        self.shapes = layout.shapes
        metadata = {kv.key: kv.value for kv in source.metadata()}
        self.work: Work = work_of(self.shapes, metadata, source.architecture)
        tokens, merges = (metadata.get(f"tokenizer.ggml.{name}") or () for name in ("tokens", "merges"))
        self.run = run_memory(len(tokens), len(merges))
        trained = metadata.get(f"{source.architecture}.context_length")
        self.trained = trained if isinstance(trained, int) else None
        self.weights = sum(prod(shape) for shape in self.shapes.values())

    def fit(self, tokens: int, cache_type: str) -> Fit:
        wanted = [(tokens, cache_type), *self._smaller(tokens, cache_type)]
        context, *others = simulate_contexts(self.layout.path, wanted, label=self.source.label)
        room = self._room(context)
        contents = sorted(self._contents, key=lambda entry: entry[1])
        sizes = tuple(self._size(name, size, tensors, context) for name, size, tensors in contents)
        fitting = [size for size in sizes if size.fits]
        if not fitting:
            raise self._refusal(sizes, context, others)
        best = fitting[-1]
        assert best.loading is not None
        return Fit(
            model=self.source.label,
            device=self.profile,
            min_tps=self.min_tps,
            context=context,
            run=self.run,
            room=room,
            largest_bpw=min(8 * room / self.weights, _MOST_BITS),
            sizes=sizes,
            best=best.name,
            flags=self._flags(context, best.loading),
            notes=tuple(self._notes(sizes, best, context, others)),
        )

    def _room(self, context: ContextMemory) -> int:
        return room_for_weights(self.profile.spare, context, self.run)

    @staticmethod
    def _smaller(tokens: int, cache_type: str) -> list[tuple[int, str]]:
        """Contexts to propose: the same with smaller keys and values, then shorter ones."""
        others = [(tokens, _SMALL_CACHE)] if cache_type in ("f32", "f16", "bf16") else []
        small = _SMALL_CACHE if others else cache_type
        while tokens > _FEWEST_TOKENS:
            tokens = max(tokens // 2, _FEWEST_TOKENS)
            others.append((tokens, small))
        return others

    @functools.cached_property
    def _contents(self) -> list[tuple[str, int, list[Matrix]]]:
        """Name, bytes and tensors of each size."""
        found = []
        made = preset_contents(self.layout, PRESETS, self.source.label)
        for name, (size, types) in made.items():
            found.append((name, size, [Matrix(n, s, types[n].upper()) for n, s in self.shapes.items()]))
        if self.source.gguf_path is not None:
            own, _ = read_work(self.source.gguf_path)
            found.append((ITSELF, sum(path.stat().st_size for path in self.source.files), own))
        return found

    def _size(self, name: str, file_bytes: int, tensors: Sequence[Matrix], context: ContextMemory) -> Size:
        weights = weight_memory(tensors, self.work, self.profile.instructions)
        room = self._room(context)
        loading = least_loading(weights, room)
        pace = predict_pace(self.profile, tensors, self.work)
        if loading == "plain" and weights.has_copies:
            pace = replace(pace, prefill=pace.prefill / _PLAIN_SLOWDOWN, estimated=True)
        taken = weights.of(loading or "plain")
        return Size(
            name=name,
            file_bytes=file_bytes,
            bpw=8 * weights.plain / self.weights,
            weights=weights,
            loading=loading,
            memory=taken + context.total + self.run,
            missing=0 if loading is not None else weights.plain - room,
            pace=pace,
            fast_enough=self.min_tps is None or pace.decode >= self.min_tps,
        )

    def _flags(self, context: ContextMemory, loading: Loading) -> tuple[str, ...]:
        flags = [f"--ctx-size {context.tokens}", "--parallel 1", f"--threads {self.profile.threads}"]
        if context.cache_type != "f16":
            flags += [f"--cache-type-k {context.cache_type}", f"--cache-type-v {context.cache_type}"]
        return (*flags, *FLAGS[loading])

    def _refusal(self, sizes: Sequence[Size], context: ContextMemory, others: Sequence[ContextMemory]) -> InputError:
        """Nothing fits, or what fits is too slow: the sentence says what would do."""
        name, device, spare = self.source.label, self.profile.name, size_text(self.profile.spare)
        in_memory = [size for size in sizes if size.loading is not None]
        if in_memory:
            fastest = max(in_memory, key=lambda size: size.pace.decode)
            return InputError(
                f"No size of {name} that fits {device} answers with {self.min_tps:g} tokens a second: the fastest, "
                f"{fastest.name}, is predicted to reach {fastest.pace.decode:.1f}; ask for less, or take a smaller "
                "model."
            )
        smallest = min(sizes, key=lambda size: size.weights.plain)
        longest = next((other for other in others if other.tokens == context.tokens), context)
        needed = smallest.weights.plain + longest.total + self.run + self.profile.system
        kv = "" if longest is context else f"with --kv {longest.cache_type} "
        advice = f"{kv}a device with {size_text(needed)} would"
        for other in others:
            if smallest.weights.plain <= self._room(other):
                advice = f"with --context {other.tokens} --kv {other.cache_type} it would"
                break
        return InputError(
            f"{name} does not fit {device} with a context of {context.tokens} tokens: even {smallest.name}, a file of "
            f"{size_text(smallest.file_bytes)}, needs {size_text(smallest.memory)}, and the system leaves {spare}; "
            f"{advice}."
        )

    def _notes(
        self, sizes: Sequence[Size], best: Size, context: ContextMemory, others: Sequence[ContextMemory]
    ) -> list[str]:
        notes = []
        larger = next((size for size in sizes if size.loading is None), None)
        if larger is not None:
            note = f"{larger.name} lacks {size_text(larger.missing)}"
            helpful = next((o for o in others if larger.weights.plain <= self._room(o)), None)
            if helpful is not None:
                note += f"; it would fit with --context {helpful.tokens} --kv {helpful.cache_type}"
            notes.append(f"{note}.")
        slow = [size.name for size in sizes if size.loading is not None and not size.fast_enough]
        if slow:
            notes.append(f"{', '.join(slow)}: slower than {self.min_tps:g} tokens a second.")
        if best.loading == "read":
            notes.append(
                f"Mapped, the weights of {best.name} take {size_text(best.weights.mapped)}: llama.cpp stores some of "
                "them in another layout as well. --load-mode none (--no-mmap in older versions) stores them once."
            )
        elif best.loading == "plain":
            notes.append(f"--no-repack saves memory for {best.name}; prompts are read about half as fast.")
        if self.trained is not None and context.tokens > self.trained:
            notes.append(f"{self.source.label} was trained on {self.trained} tokens; a longer context is of no use.")
        if best.pace.estimated:
            notes.append(f"The speeds of {self.profile.name} are estimates, from what others published.")
        if best.pace.interpolated:
            notes.append(f"The speed of {', '.join(best.pace.interpolated)} is interpolated by bits a weight.")
        return notes
