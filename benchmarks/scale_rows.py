"""The rows of ``benchmarks.scale`` and the commands that each of them runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.turns import Command


@dataclass(frozen=True)
class Setup:
    """Models, texts and sizes of a run.

    Attributes:
        work: folder of the models and of all files that are made.
        shapes: names in ``shapes.SHAPES`` by size.
        demo: model that is widened.
        hidden: hidden size that it is widened to.
        tokens: calibration tokens where a peer runs on the same.
        saliency_tokens: tokens for the perplexity drops.
        memory_tokens: calibration tokens in the row memory-quality; None takes the default of an export.
        preset: preset of llama.cpp, whose file ours must not exceed.
        budget: budget of models of real shapes.
        repeats: runs of all commands except the largest.
        threads: threads of ours and of the peers; None takes all cores.
        quick: whether sizes are tiny, to try the benchmark out.
    """

    work: Path
    shapes: Mapping[str, str]
    demo: str = "demo"
    hidden: int = 768
    tokens: int = 16384
    saliency_tokens: int = 4096
    memory_tokens: int | None = None
    preset: str = "Q3_K_M"
    budget: str = "3.0bpw"
    repeats: int = 3
    threads: int | None = None
    quick: bool = False

    def path(self, name: str) -> str:
        """A file or folder in the work folder."""
        return str(self.work / name)

    def model(self, size: str) -> str:
        """Directory of the model of a size."""
        return self.path(self.shapes[size])

    def export(self, model: str, *flags: str) -> tuple[str, ...]:
        """Subcommand of lieq-edge and its flags for an export, which replaces its output."""
        arguments = ("export", model, "--out", str(self.ours), "--force", "--json", *flags)
        chunks = ("--chunks", "2") if self.quick and "--no-validate" not in flags else ()
        return (*arguments, "--calibration", "docs", *chunks, *self.thread_flags())

    def run_export(self, name: str, model: str, *flags: str, repeats: int = 1, after: str | None = None) -> Command:
        """A command that exports ``model``."""
        return Command(name, ("-m", "lieq_edge", *self.export(model, *flags)), repeats, after, self.ours)

    def run_work(self, name: str, *arguments: str, output: Path | None = None) -> Command:
        """A command that does a piece of work of ``scale_work``, as often as the setup says."""
        return Command(name, self.work_on(*arguments), self.repeats, output=output)

    @property
    def ours(self) -> Path:
        """File that our commands write."""
        return self.work / "ours.gguf"

    @property
    def peer(self) -> Path:
        """File that the peers write."""
        return self.work / "peer.gguf"

    def work_on(self, *arguments: str) -> tuple[str, ...]:
        """Arguments of a piece of work of ``scale_work``."""
        return ("-m", "benchmarks.scale_work", *arguments, *self.thread_flags())

    def thread_flags(self) -> tuple[str, ...]:
        return () if self.threads is None else ("--threads", str(self.threads))

    @property
    def token_file(self) -> str:
        """File with the windows of tokens that the peer of an export calibrates on."""
        return self.path(f"wide-{self.tokens}.npy")

    @property
    def profile(self) -> Path:
        """File that ``scale_profile`` writes."""
        return self.work / "profile.json"

    @property
    def peer_size(self) -> Path:
        """File with the number of bytes of the peer's file."""
        return self.work / f"size-{self.preset}"

    def size_flags(self) -> tuple[str, ...]:
        """Flags of exports of the widened model: at most the size of the peer's file, and no validation."""
        size = self.peer_size.read_text(encoding="utf-8").strip()
        return ("--budget", f"{size}B", "--no-validate")

    def token_flags(self, share: int = 1) -> tuple[str, ...]:
        """Flags of exports that learn from the peer's tokens, or from the ``share``-th part of as many."""
        return ("--calibration-tokens", str(self.tokens // share))


FLAGS: dict[str, tuple[str, ...]] = {
    "quality": ("--metric", "loss"),
    "once": ("--metric", "loss", "--rounding", "feedback-once"),
    "geometry": ("--metric", "geometry", "--rounding", "imatrix"),
}
"""Flags of the exports that are measured, by name."""


def hardware(setup: Setup) -> list[Command]:
    quick = ("--sizes", "512", "1024", "--seconds", "0.2", "--disk-bytes", str(1 << 26)) if setup.quick else ()
    work = ("-m", "benchmarks.hardware", "--work", str(setup.work), *quick)
    return [Command("hardware", (*work, *setup.thread_flags()))]


def wide_peers(setup: Setup) -> list[Command]:
    files = (setup.path("wide-f32.gguf"), setup.token_file)
    return [
        setup.run_work("wide/peer", "peer-export", *files, str(setup.peer), setup.preset, output=setup.peer),
        setup.run_work("wide/torch-imatrix", "torch-imatrix", setup.path("wide"), files[1]),
    ]


def wide(setup: Setup, name: str) -> list[Command]:
    return _wide(setup, name, *FLAGS[name], *setup.token_flags())


def wide_quick(setup: Setup) -> list[Command]:
    # A quarter of the text belongs to this effort.
    return _wide(setup, "quick", "--effort", "quick", *setup.token_flags(4))


def _wide(setup: Setup, name: str, *flags: str) -> list[Command]:
    export = setup.run_export(f"wide/{name}", setup.path("wide"), *flags, *setup.size_flags(), repeats=setup.repeats)
    return [*wide_peers(setup), export]


def quantize(setup: Setup) -> list[Command]:
    types = ("--types", setup.path("types.json"), "--budget", setup.budget)
    ours = ("quantize-ours", setup.model("1.5b"), str(setup.ours), *types)
    peer = ("quantize-peer", setup.path("1.5b-bf16.gguf"), str(setup.peer), *types)
    # Ours runs first and writes the file of types that the peer reads.
    return [
        setup.run_work("quantize/ours", *ours, output=setup.ours),
        setup.run_work("quantize/peer", *peer, output=setup.peer),
    ]


def geometry(setup: Setup) -> list[Command]:
    arguments = ("-m", "lieq_edge", "analyze", setup.model("1.5b"), "--metric", "geometry", "--json")
    return [Command("geometry/1.5b", (*arguments, *setup.thread_flags()))]


def saliency(setup: Setup) -> list[Command]:
    model = setup.path("wide") if setup.quick else setup.demo
    tokens = ("--tokens", str(setup.saliency_tokens))
    return [
        setup.run_work("saliency/ours", "saliency", model, *tokens),
        setup.run_work("saliency/naive", "saliency-naive", model, *tokens),
    ]


def memory_quality(setup: Setup) -> list[Command]:
    tokens = () if setup.memory_tokens is None else ("--calibration-tokens", str(setup.memory_tokens))
    return [
        setup.run_export(f"memory/{name}/1.5b", setup.model("1.5b"), *FLAGS[name], "--budget", setup.budget, *tokens)
        for name in ("quality", "once")
    ]


def memory_geometry(setup: Setup) -> list[Command]:
    flags = (*FLAGS["geometry"], "--budget", setup.budget)
    return [setup.run_export(f"memory/geometry/{size}", setup.model(size), *flags) for size in setup.shapes]


def cache(setup: Setup) -> list[Command]:
    commands = []
    for name, flags in FLAGS.items():
        first, rest = f"cache/{name}/first", (*flags, *setup.token_flags(), "--no-validate")
        for part, budget, after in ((first, "3.0bpw", None), (f"cache/{name}/second", "3.6bpw", first)):
            arguments = (*rest, "--budget", budget)
            commands.append(setup.run_export(part, setup.path("wide"), *arguments, repeats=setup.repeats, after=after))
    return commands


def where(setup: Setup) -> list[Command]:
    profiles = [
        _profile(setup, f"where/{name}", setup.path("wide"), *flags, *setup.token_flags(), *setup.size_flags())
        for name, flags in FLAGS.items()
    ]
    tokens = ("--tokens", str(setup.tokens))
    operations = setup.work_on("operations", setup.path("wide-f32.gguf"), *tokens)
    return [*profiles, Command("where/operations", operations)]


def where_large(setup: Setup) -> list[Command]:
    rest = ("--budget", setup.budget, "--no-validate")
    return [_profile(setup, f"where-1.5b/{name}", setup.model("1.5b"), *flags, *rest) for name, flags in FLAGS.items()]


def _profile(setup: Setup, name: str, model: str, *flags: str) -> Command:
    work = ("-m", "benchmarks.scale_profile", str(setup.profile), "--", *setup.export(model, *flags))
    return Command(name, work, output=setup.ours)


ROWS: dict[str, Callable[[Setup], list[Command]]] = {
    "hardware": hardware,
    **{f"wide-{name}": partial(wide, name=name) for name in FLAGS},
    "wide-quick": wide_quick,
    "quantize": quantize,
    "geometry": geometry,
    "saliency": saliency,
    "memory-quality": memory_quality,
    "memory-geometry": memory_geometry,
    "cache": cache,
    "where": where,
    "where-1.5b": where_large,
}
"""Commands of each row; rows that share commands are measured together, so that peers alternate with all of ours."""

OPTIONAL = ("where-1.5b",)
"""Rows that are measured only when they are named."""


def groups(rows: Sequence[str], setup: Setup) -> list[list[Command]]:
    """Commands to alternate between, by group of rows, each command once."""
    made: list[dict[str, Command]] = []
    for row in rows:
        commands = {command.name: command for command in ROWS[row](setup)}
        shared = next((group for group in made if group.keys() & commands.keys()), None)
        if shared is None:
            made.append(commands)
        else:
            shared.update({name: command for name, command in commands.items() if name not in shared})
    return [list(group.values()) for group in made]
