"""Names of parameters as transformers has them, whatever wrapper or class they were saved from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")

_HEAD = "lm_head.weight"
_BODY = "model."
# What torch.compile, FSDP and gradient checkpointing put into names, and what DataParallel puts before them.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_PARALLEL = "module."


def unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors by names without what wrappers of PyTorch have put into them."""
    renamed = dict(tensors)
    for wrapper in _WRAPPERS:
        if any(wrapper in name for name in renamed):
            renamed = {name.replace(wrapper, ""): tensor for name, tensor in renamed.items()}
    while renamed and all(name.startswith(_PARALLEL) for name in renamed):
        renamed = {name.removeprefix(_PARALLEL): tensor for name, tensor in renamed.items()}
    return renamed if len(renamed) == len(tensors) else dict(tensors)


def fitted(tensors: Mapping[str, T], needed: Collection[str], embedding: str, *, tied: bool) -> dict[str, T]:
    """Tensors by the names that a model needs, found as transformers finds them.

    The body of a model may be saved without ``model.`` or with one more, and the one matrix of a tied model under the
    name of its head.

    Args:
        tensors: by the names in the files.
        needed: names of the model's parameters.
        embedding: the name of the token embedding.
        tied: the head is the embedding.
    """
    wanted = {*needed, _HEAD}
    fits = {name: tensor for name, tensor in tensors.items() if name in wanted}
    for name, tensor in tensors.items():
        if name in fits:
            continue
        other = next((form for form in (_BODY + name, name.removeprefix(_BODY)) if form in wanted), name)
        fits[other if other not in tensors else name] = tensor
    if tied and embedding not in fits and _HEAD in fits:
        fits[embedding] = fits.pop(_HEAD)
    return fits
