"""Dynamics of many conformations at once. Units: nm, ps, Da, kJ/mol, Kelvin.

States are frozen dataclasses of tensors; noise comes from the generator passed to each call, so a
state and a seed decide the rest.
"""

from .langevin import (
    GAS_CONSTANT,
    DynamicsState,
    Langevin,
    NonFiniteStart,
    Potential,
    kinetic_energy,
    thermal_velocities,
)
from .masses import repartitioned_masses
from .pivots import Rotors, find_rotors, pivot, rotated
from .relaxing import relax
from .replicas import ReplicaExchange, ReplicaState, geometric_ladder
from .together import Member, run_together

__all__ = [
    "GAS_CONSTANT",
    "DynamicsState",
    "Langevin",
    "Member",
    "NonFiniteStart",
    "Potential",
    "ReplicaExchange",
    "ReplicaState",
    "Rotors",
    "find_rotors",
    "geometric_ladder",
    "kinetic_energy",
    "pivot",
    "relax",
    "repartitioned_masses",
    "rotated",
    "run_together",
    "thermal_velocities",
]
