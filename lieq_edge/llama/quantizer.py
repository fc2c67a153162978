"""The worker's functions around ``llama_model_quantize``. Imports llama.cpp."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .log import Log, captured_log
from .worker import Worker

Api: Any = llama_cpp

# "[   3/  29] blk.0.attn_k.weight  - [ 64, 32, 1, 1], type =    f16, size =     0.00 MiB ->     0.00 MiB (q4_K)":
# written in two pieces, without an arrow where the type stays.
_TENSOR = re.compile(
    r"^\[ *\d+/ *\d+\] (?P<name>.+?) +- \[[^\]]*\], type = *(?P<type>\w+), size = *[\d.]+ MiB(?P<change>[^\n]*)$",
    re.MULTILINE,
)
_CHANGED = re.compile(r"\((\w+)\)\s*$")
_STEP = re.compile(r"^\[ *(\d+)/ *\d+\] ")
_STRING_BYTES, _KEY_BYTES = 128, 128


def quantize(worker: Worker, path: str, label: str, out: str, options: dict[str, Any]) -> None:
    """Write a file; every tensor is reported as an event, with the number of tensors before it."""
    params, kept = _params(options)

    def report(piece: str) -> None:
        if (match := _STEP.match(piece)) is not None:
            worker.event(int(match[1]) - 1)

    with captured_log(report) as log:
        status = Api.llama_model_quantize(path.encode("latin-1"), out.encode("latin-1"), ctypes.byref(params))
        del kept
        _check(log, status, label, options["preset"])


def quantized_types(
    worker: Worker, path: str, label: str, presets: list[tuple[str, int]], importance: bool
) -> list[dict[str, str]]:
    """ggml's name of the type that each tensor would get, for each of some presets (name, file type).

    No weights are read: the file needs its header, and the length that it has with weights.
    """
    params = Api.llama_model_quantize_default_params()
    params.dry_run = params.allow_requantize = True
    params.nthread = 1
    # An entry without a name ends the table, and an empty table is an imatrix too.
    entries = (Api.llama_model_imatrix_data * 1)()
    if importance:
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    found = []
    for preset, file_type in presets:
        params.ftype = file_type
        pieces: list[str] = []
        with captured_log(pieces.append) as log:
            status = Api.llama_model_quantize(path.encode("latin-1"), b"", ctypes.byref(params))
            _check(log, status, label, preset)
        found.append(_types("".join(pieces)))
    return found


def _types(text: str) -> dict[str, str]:
    """Type of each tensor, from the log of a dry run."""
    types = {}
    for match in _TENSOR.finditer(text):
        changed = _CHANGED.search(match["change"])
        types[match["name"]] = changed[1] if changed else match["type"]
    return types


def _check(log: Log, status: int, label: str, preset: str) -> None:
    """Raise what went wrong: in the listener, or in llama.cpp, with its reason."""
    if log.failure is not None:
        raise log.failure
    if status != 0:
        raise InputError(
            f"llama.cpp cannot write {label} as {preset} ({_reason(log.errors) or f'status {status}'}); fix that or "
            "choose another."
        )


def _reason(errors: list[str]) -> str:
    """The line that names the cause: the last one, or the first when a file cannot be loaded."""
    if not errors or "failed to load model" in errors[-1]:
        return "".join(errors[:1])
    return errors[-1].removeprefix("failed to quantize: ")


def _params(options: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The parameters, and what they point to: a ctypes structure does not hold it, and it must outlive the call."""
    params = Api.llama_model_quantize_default_params()
    params.ftype = options["file_type"]
    params.nthread = options["threads"]
    params.allow_requantize = True
    params.pure = options["pure"]
    for field in ("output_tensor_type", "token_embedding_type"):
        if options[field] is not None:
            setattr(params, field, options[field])
    kept: list[Any] = []
    if options["imatrix"] is not None:
        with np.load(options["imatrix"]) as archive:
            arrays = {name: np.ascontiguousarray(archive[name], np.float32).reshape(-1) for name in archive.files}
        entries = _imatrix_entries(arrays)
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
        kept += [arrays, entries]
    if options["tensor_types"]:
        overrides = (Api.llama_model_tensor_override * (len(options["tensor_types"]) + 1))()
        for entry, (pattern, kind) in zip(overrides, options["tensor_types"], strict=False):
            entry.pattern, entry.type = pattern.encode(), kind
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
        kept.append(overrides)
    if options["key_values"]:
        values = _key_value_entries(options["key_values"])
        params.kv_overrides = ctypes.cast(values, type(params.kv_overrides))
        kept.append(values)
    return params, kept


def _imatrix_entries(arrays: Mapping[str, npt.NDArray[np.float32]]) -> Any:
    """A C array of ``llama_model_imatrix_data``, ended by an entry without a name."""
    entries = (Api.llama_model_imatrix_data * (len(arrays) + 1))()
    for entry, (name, values) in zip(entries, arrays.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries


def _key_value_entries(key_values: Mapping[str, str | int]) -> Any:
    """A C array of ``llama_model_kv_override``, ended by an entry without a key."""
    entries = (Api.llama_model_kv_override * (len(key_values) + 1))()
    for entry, (key, value) in zip(entries, key_values.items(), strict=False):
        assert len(key.encode()) < _KEY_BYTES
        entry.key = key.encode()
        if isinstance(value, str):
            assert len(value.encode()) < _STRING_BYTES
            entry.tag = Api.LLAMA_KV_OVERRIDE_TYPE_STR
            entry.value.val_str = value.encode()
        else:
            entry.tag = Api.LLAMA_KV_OVERRIDE_TYPE_INT
            entry.value.val_i64 = value
    return entries


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quantize": quantize,
    "quantized_types": quantized_types,
}
"""Functions that the parent may call, by name."""
