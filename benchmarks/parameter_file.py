"""Force fields with conformations and their energies in one file, to be read without OpenMM."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gensci.sims.forcefield.parameters import BornParameters, Parameters

_SYMMETRIC = ("coulomb", "lj12", "lj6")  # only the upper triangle is written


@dataclass(frozen=True)
class Example:
    """A force field and what it gives.

    Attributes:
        parameters: the force field.
        x: (n, atoms, 3) float32 nm.
        energy: (n,) float64 kJ/mol, of the CPU kernel in float64.
        forces: (n, atoms, 3) kJ/mol/nm, likewise, rounded to float32.
    """

    parameters: Parameters
    x: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor


def save_example(path: Path, example: Example) -> None:
    tensors, scalars = {}, {}
    for name, value in _flatten(example.parameters).items():
        if isinstance(value, torch.Tensor):
            tensors[name] = _triangle(value) if name in _SYMMETRIC else value.contiguous()
        else:
            scalars[name] = value
    tensors |= {name: getattr(example, name).contiguous() for name in ("x", "energy", "forces")}
    save_file(tensors, path, {"scalars": json.dumps(scalars)})


def load_example(path: Path) -> Example:
    with safe_open(path, "pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values |= json.loads(file.metadata()["scalars"])
    atoms = len(values["masses"])
    values |= {name: _square(values[name], atoms) for name in _SYMMETRIC}
    results = {name: values.pop(name) for name in ("x", "energy", "forces")}
    born = {k.removeprefix("born."): values.pop(k) for k in list(values) if k.startswith("born.")}
    values["born"] = BornParameters(**born) if born else None
    return Example(Parameters(**values), **results)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if dataclasses.is_dataclass(part):
            flat |= _flatten(part, f"{prefix}{field.name}.")
        elif part is not None:
            flat[prefix + field.name] = part
    # a missing number is its default, which the classes know, or None
    return flat | ({"cutoff": None} if not prefix and value.cutoff is None else {})


def _triangle(square: torch.Tensor) -> torch.Tensor:
    row, column = torch.triu_indices(*square.shape, offset=1)
    return square[row, column].contiguous()


def _square(triangle: torch.Tensor, atoms: int) -> torch.Tensor:
    row, column = torch.triu_indices(atoms, atoms, offset=1)
    square = triangle.new_zeros(atoms, atoms)
    square[row, column] = square[column, row] = triangle
    return square
