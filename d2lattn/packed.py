"""A model's weights in one character each: texts that a page can hold."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from d2lattn.checks import check_floating
from d2lattn.ordinary import is_finite

__all__ = ["CHARACTERS", "pack", "unpack"]

# All that can be printed in one byte and that neither JSON nor HTML has to escape: 89.
CHARACTERS = "".join(
    character
    for character in string.digits + string.ascii_letters + string.punctuation
    if character not in '"\\<>&'
)
_LARGEST = len(CHARACTERS) // 2  # the character in the middle is 0


def pack(model: nn.Module) -> dict[str, dict[str, Any]]:
    r"""The weights of a model, rounded to whole numbers from -44 to 44 of a tensor's own unit.

    .. math:: w \approx n u, \qquad u = \max_i |w_i| / 44

    No weight moves by more than half a unit, one part in 88 of the largest of its tensor. Nothing
    is fitted: another computer rounds to the same characters.

    Parameters
    ----------
    model
        Whose ``state_dict`` is packed; it stays as it is.

    Returns
    -------
    dict
        For each tensor its ``unit``, a number of six digits, the ``width`` of its rows, and its
        ``numbers``, row by row a character of ``CHARACTERS`` for each; the one in the middle is 0.

    Raises
    ------
    TypeError
        If a tensor is not floating point.
    ValueError
        If one holds a number that is not finite.

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, -1.1]]))
    >>> pack(layer)
    {'weight': {'unit': 0.025, 'width': 2, 'numbers': '$0'}}
    >>> unpack(pack(layer), layer)
    {'weight': tensor([[ 0.5000, -1.1000]])}
    """
    packed = {}
    for name, tensor in model.state_dict().items():
        check_floating(name, tensor)
        if not is_finite(tensor):
            raise ValueError(f"{name} must have finite numbers; got {tensor[~tensor.isfinite()]}")
        weights = tensor.double().flatten()
        unit = float(f"{weights.abs().max().item() / _LARGEST:.5e}") or 1.0
        numbers = (weights / unit).round().clamp(-_LARGEST, _LARGEST).long()
        text = "".join(CHARACTERS[number + _LARGEST] for number in numbers.tolist())
        width = tensor.shape[-1] if tensor.ndim else 1
        packed[name] = {"unit": unit, "width": width, "numbers": text}
    return packed


def unpack(packed: Mapping[str, Mapping[str, Any]], model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` of a model, with the weights as they were rounded.

    Parameters
    ----------
    packed
        What :func:`pack` made of such a model.
    model
        What gives every tensor its shape and its dtype; it stays as it is.

    Raises
    ------
    ValueError
        If the tensors are not those of the model, or a character is none of ``CHARACTERS``.
    """
    state = model.state_dict()
    if packed.keys() != state.keys():
        raise ValueError(f"packed must have {', '.join(state)}; got {', '.join(packed)}")
    found = {}
    for name, like in state.items():
        text, unit = packed[name]["numbers"], packed[name]["unit"]
        if len(text) != like.numel() or not set(text) <= set(CHARACTERS):
            raise ValueError(
                f"packed[{name!r}] must hold {like.numel()} characters of CHARACTERS; "
                f"got {len(text)}, {text[:20]!r} first"
            )
        numbers = [CHARACTERS.index(character) - _LARGEST for character in text]
        weights = torch.tensor(numbers, dtype=torch.float64) * unit
        found[name] = weights.view(like.shape).to(like.dtype)
    return found
