"""Dataclasses of tensors to flat dictionaries and back, so that they can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch

from gensci.core.protocols import Tensors

T = TypeVar("T")
_NUMBERS = {float: torch.float64, int: torch.int64, bool: torch.bool}


def pack(subject: Any) -> Tensors:
    """Return the tensors of a dataclass under flat keys, as independent contiguous CPU tensors.

    A tensor field keeps its name; a dictionary field gives ``field/key``; a number becomes a tensor
    without dimensions. Fields that are None, and anything else, are left out.
    """
    packed: Tensors = {}
    for field in fields(subject):
        value = getattr(subject, field.name)
        if isinstance(value, torch.Tensor):
            packed[field.name] = _own(value)
        elif isinstance(value, Mapping):
            items = ((f"{field.name}/{k}", v) for k, v in value.items())
            packed.update({key: _own(v) for key, v in items if isinstance(v, torch.Tensor)})
        elif isinstance(value, float | int):
            packed[field.name] = torch.tensor(value, dtype=_NUMBERS[type(value)])
    return packed


def unpack(cls: type[T], tensors: Tensors, device: str | torch.device = "cpu") -> T:
    """Return the dataclass that :func:`pack` was given; absent fields take their defaults.

    Fields annotated ``float``, ``int`` or ``bool`` become Python numbers again. Dictionaries, which
    hold samples, go to ``device``; single tensors, one number for each row, stay on the CPU.
    """
    plain = {field.name for field in fields(cls) if field.type in ("float", "int", "bool")}
    values: dict[str, Any] = {}
    for key, value in tensors.items():
        name, slash, inner = key.partition("/")
        if slash:
            values.setdefault(name, {})[inner] = value.to(device)
        else:
            values[name] = value.item() if name in plain else value
    return cls(**values)


def _own(value: torch.Tensor) -> torch.Tensor:
    # A file of safetensors holds no views: each entry has memory of its own.
    return value.detach().to("cpu", copy=True).contiguous()
