"""Molecular force fields, batched over conformations. Units: nm, kJ/mol, Da, radian."""

from .errors import UnsupportedForce
from .field import ForceField
from .native import kernel_status
from .parameters import Parameters

__all__ = ["ForceField", "Parameters", "UnsupportedForce", "kernel_status"]
