"""Write a quantised model: key-values of the source and of lieq-edge, and tensors while they are encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from gguf import GGUFValueType

from ..allocation import by_loss
from ..allocation.plan import Plan, TensorPlan
from ..errors import InputError
from ..gguf.container import write_container
from ..gguf.storage import storage_type
from ..llama.encoders import Packed
from ..presets.labels import LABEL_FILE_TYPES, label_of
from ..sources.base import KeyValue, Source
from ..system.files import atomic_path, check_space, output_target
from ..texts.info import TextInfo
from ..version import __version__
from .tuning import steps_key


def own_metadata(plan: Plan, *, label: str, calibration: TextInfo | None, rounding: str) -> list[KeyValue]:
    """The key-values that say how the file was made (``lieq.*``), and the general ones that llama.cpp reads.

    None is an integer of 64 bits: JavaScript reads these as a type that its JSON refuses.

    Args:
        plan: types of all tensors.
        label: preset that ``general.file_type`` names.
        calibration: record of the calibration text.
        rounding: name of the rounding.
    """

    def text(key: str, value: str) -> KeyValue:
        return KeyValue(key, value, GGUFValueType.STRING)

    def number(key: str, value: float) -> KeyValue:
        return KeyValue(key, value, GGUFValueType.FLOAT32)

    def integers(key: str, values: list[int]) -> KeyValue:
        return KeyValue(key, values, GGUFValueType.ARRAY, GGUFValueType.INT32)

    def numbers(key: str, values: list[float]) -> KeyValue:
        return KeyValue(key, values, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)

    def described(key: str, info: TextInfo) -> list[KeyValue]:
        return [
            text(f"{key}.name", info.name[-200:]),
            text(f"{key}.sha256", info.sha256),
            KeyValue(f"{key}.tokens", info.tokens, GGUFValueType.UINT32),
        ]

    values = [
        KeyValue("general.file_type", LABEL_FILE_TYPES[label], GGUFValueType.UINT32),
        KeyValue("general.quantization_version", 2, GGUFValueType.UINT32),
        text("lieq.version", __version__),
        text("lieq.metric", plan.metric),
        text("lieq.budget", plan.budget),
        # Predicted losses choose among types, without levels.
        *([] if plan.metric == by_loss.NAME else [integers("lieq.levels", list(plan.levels))]),
        numbers("lieq.block_bits", [block.bits for block in plan.blocks]),
        numbers("lieq.block_scores", [block.score for block in plan.blocks]),
        number("lieq.nominal_bits", plan.nominal_bits),
        number("lieq.bpw", plan.bpw),
        text("lieq.rounding", rounding),
        text("lieq.source_sha256", plan.model_hash),
        KeyValue("lieq.seed", plan.seed, GGUFValueType.UINT32),
    ]
    if plan.probe is not None:
        values += described("lieq.probe", plan.probe)
    if calibration is not None:
        values += described("lieq.calibration", calibration)
    return values


def write_model(
    path: Path,
    source: Source,
    plan: Plan,
    tensors: Iterable[tuple[TensorPlan, Packed]],
    *,
    calibration: TextInfo | None = None,
    rounding: str = "imatrix",
    tunes: bool = False,
    ready: Callable[[Path], None] = lambda path: None,
    replace: bool = True,
) -> int:
    """Write the file whole or not at all; tensors are taken one at a time.

    Args:
        path: GGUF file to write.
        source: model with the key-values.
        plan: types and shapes of the tensors.
        tensors: encoded tensors in the plan's order.
        calibration: record of the calibration text.
        rounding: name of the rounding, for the record.
        tunes: True adds the key that a tuning fills in.
        ready: function that is called with the whole file before it gets its name.
        replace: True replaces a file at ``path``, even one that appeared meanwhile.

    Returns:
        Size of the written file in bytes.

    Raises:
        InputError: the disk has too little space or fails, or ``path`` exists and ``replace`` is False.
    """
    check_space(output_target(path).parent, plan.file_bytes)
    label = label_of(source, plan.file_bpw, plan.budget)
    # The default alignment is what the plan counts with.
    carried = [kv for kv in source.metadata() if kv.key != "general.alignment" and not kv.key.startswith("lieq.")]
    metadata = [*carried, *own_metadata(plan, label=label, calibration=calibration, rounding=rounding)]
    if tunes:
        metadata.append(steps_key(0))
    shapes = [(tensor.name, tensor.shape, storage_type(tensor.type)) for tensor in plan.tensors]
    try:
        with atomic_path(path, replace=replace) as temporary:
            write_container(temporary, source.architecture, metadata, shapes, (packed for _, packed in tensors))
            ready(temporary)
            return temporary.stat().st_size
    except OSError as error:
        raise InputError(f"Writing {path} failed: {error.strerror or error}; nothing was written.") from error
