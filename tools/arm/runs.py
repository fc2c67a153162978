"""Runs of a file in llama.cpp, by an ARM64 processor or this one: logits of a text and its likeliest continuation."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lieq_edge.device.repack import Instructions, instructions_of
from lieq_edge.llama.loaded import Api, LoadedModel
from lieq_edge.llama.log import Log
from lieq_edge.llama.memory import named_features
from lieq_edge.system.threads import available_threads

TEXT = "The capital of France is Paris. It lies on the river Seine, and about two million people live in it."
NEW_TOKENS = 24
"""Tokens of the continuation."""

EMULATOR = "qemu-aarch64-static"
# Debian's folder of the libraries for ARM64.
_LIBRARIES = "/usr/aarch64-linux-gnu"

Ids = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cpu:
    """A processor that qemu emulates.

    Attributes:
        name: what people know it as.
        model: qemu's name of it.
        instructions: those by which llama.cpp chooses layouts there.
    """

    name: str
    model: str
    instructions: Instructions


CPUS = (
    Cpu("Raspberry Pi 4", "cortex-a72", "neon"),
    Cpu("Raspberry Pi 5", "cortex-a76", "neon-dotprod"),
    Cpu("with SVE and i8mm", "max,sve-default-vector-length=16", "neon-i8mm"),
)


@dataclass(frozen=True)
class Run:
    """What a file predicts.

    Attributes:
        ids: ``(tokens,)``: the text's, and then those of the continuation.
        given: tokens of the text.
        logits: ``(tokens - 1, vocabulary)``: after each token but the last.
        instructions: those by which llama.cpp chose layouts.
        repacked: bytes of matrices in another layout, to a hundredth of a MiB.
    """

    ids: Ids
    given: int
    logits: Logits
    instructions: Instructions
    repacked: int


class RunError(Exception):
    """A file could not be run; the sentence is llama.cpp's or qemu's."""


def run_here(path: Path, *, repack: bool = True) -> Run:
    """A run by this processor, in the installed llama-cpp-python."""
    with contextlib.closing(LoadedModel(os.fsencode(path), path.name, repacked=repack)) as model:
        repacked = model.buffers.get("CPU_REPACK", 0)
        given = model.tokenize_whole(TEXT)
        params = Api.llama_context_default_params()
        params.n_ctx = params.n_batch = len(given) + NEW_TOKENS
        params.n_threads = params.n_threads_batch = available_threads()
        model.make_context(params, len(given) + NEW_TOKENS)
        ids, rows = list(given), [_decode(model, given, 0)]
        while True:
            ids.append(int(rows[-1][-1].argmax()))
            if len(ids) == len(given) + NEW_TOKENS:
                break
            rows.append(_decode(model, ids[-1:], len(ids) - 1))
        features = named_features(Api.llama_print_system_info().decode())
        return Run(np.array(ids, np.int32), len(given), np.concatenate(rows), instructions_of(features), repacked)


def _decode(model: LoadedModel, ids: list[int], first: int) -> Logits:
    count = len(ids)
    model.decode(ids, np.arange(first, first + count), np.zeros(count, np.int64), 1)
    return model.logits(0, count).copy()


def run_on_arm(program: Path, path: Path, cpu: Cpu, *, repack: bool = True) -> Run:
    """A run by an emulated processor.

    Raises:
        RunError: the program failed.
    """
    with tempfile.TemporaryDirectory(prefix="lieq-arm-") as folder:
        text, out = Path(folder, "text.txt"), Path(folder, "out.bin")
        text.write_text(TEXT, encoding="utf-8")
        arguments = [path, text, out, int(repack), NEW_TOKENS, available_threads()]
        # llama.cpp's libraries look for each other in the folder in which they were built, which is gone.
        beside = f"LD_LIBRARY_PATH={program.parent}"
        command = [EMULATOR, "-L", _LIBRARIES, "-E", beside, "-cpu", cpu.model, program, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True)
        log = done.stderr.decode("utf-8", "replace").splitlines()
        if done.returncode != 0:
            raise RunError(f"exit code {done.returncode}: {(log or ['no message'])[-1]}")
        ids, given, logits = _read(out.read_bytes())
    system = next(line for line in log if re.search(r"\bNEON = ", line))
    return Run(ids, given, logits, instructions_of(named_features(system)), repacked_bytes(log))


def repacked_bytes(log: list[str]) -> int:
    """Bytes of matrices in another layout, by llama.cpp's log."""
    buffers = Log()
    for line in log:
        buffers.note_buffer(line)
    return buffers.buffers.get("CPU_REPACK", 0)


def _read(data: bytes) -> tuple[Ids, int, Logits]:
    """Ids, tokens of the text, and logits, as ``run.cpp`` writes them."""
    given, new, vocabulary = np.frombuffer(data, "<i4", 3).tolist()
    count = given + new
    ids = np.frombuffer(data, "<i4", count, offset=12)
    logits = np.frombuffer(data, "<f4", offset=12 + 4 * count)
    return ids, given, logits.reshape(count - 1, vocabulary)
