"""The force field: one object, batched energies and forces of many conformations."""

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import torch

from . import native
from .gpu import GpuKernel, make_gpu_kernel
from .parameters import Parameters
from .reader import read_system
from .terms import energy_terms

if TYPE_CHECKING:
    import openmm

_PAIRS_AT_ONCE = 2_000_000  # bounds the memory of autograd: some 50 floats are kept for each pair


class ForceField:
    """The potential energy of one molecule, for many conformations at once.

    On the CPU a fused C kernel does the work where a C compiler is at hand, on a GPU fused Triton
    kernels where triton is installed; elsewhere plain torch does. Conformations whose energy is
    not a number (non-finite positions) get the energy +inf and zero force, so that their weight
    is zero and no other row notices.

    Args:
        parameters: the numbers of the force field.
        device: where to evaluate; by default where the positions are.
        dtype: float32 or float64 to evaluate in; by default that of the positions.
        fused: whether the fused kernels may be used.
        num_threads: threads of the C kernel; by default torch.get_num_threads().
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        fused: bool = True,
        num_threads: int | None = None,
    ) -> None:
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; give at least 1, or None")
        self.parameters = parameters
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype
        self.fused = fused
        self.num_threads = num_threads
        self._converted: dict[tuple[torch.device, torch.dtype], Parameters] = {}
        self._kernels: dict[tuple[torch.device, torch.dtype], native.Kernel | GpuKernel | None] = {}

    @classmethod
    def from_openmm(cls, system: "openmm.System", **settings: Any) -> Self:
        """Reads an OpenMM System; settings are those of the class.

        Raises:
            UnsupportedForce: the System holds a term or feature that would be ignored.
        """
        return cls(read_system(system), **settings)

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return self.parameters.num_atoms

    @property
    def masses(self) -> torch.Tensor:
        """Masses (atoms,) in Da."""
        return self.parameters.masses.to(device=self.device, dtype=self.dtype)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "ForceField":
        """The same force field evaluated on another device or in another precision."""
        return ForceField(
            self.parameters,
            device=self.device if device is None else device,
            dtype=self.dtype if dtype is None else dtype,
            fused=self.fused,
            num_threads=self.num_threads,
        )

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        """Potential energy, differentiable with respect to x.

        On the CPU the bits are those of energy_and_forces, at less cost.
        First derivatives come from the C kernel where it is active, second ones from plain torch,
        at its cost; for higher ones make the force field with `fused=False`.

        Args:
            x: (n, atoms, 3) nm.

        Returns:
            (n,) kJ/mol; +inf where it is not a number.
        """
        x = self._checked(x)
        kernel = self._kernel(x)
        if kernel is not None and x.requires_grad and torch.is_grad_enabled():
            return _FusedEnergy.apply(x, self)
        if kernel is not None:
            return kernel.energy(x.detach(), self._threads())
        parts = [sum(self._terms(chunk).values()) for chunk in x.split(self._rows_at_once())]
        return _finite_or_inf(torch.cat(parts)).to(x.dtype)

    def energy_and_forces(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (n,) kJ/mol and forces (n, atoms, 3) kJ/mol/nm, without an autograd graph.

        Args:
            x: (n, atoms, 3) nm.
        """
        x = self._checked(x.detach())
        kernel = self._kernel(x)
        if kernel is not None:
            return kernel.energy_and_forces(x, self._threads())
        parts = [self._autograd(chunk) for chunk in x.split(self._rows_at_once())]
        energies, forces = zip(*parts, strict=True)
        return torch.cat(energies), torch.cat(forces)

    def energy_terms(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Energies (n,) kJ/mol by term, differentiable; not-a-number where x is not finite."""
        x = self._checked(x)
        return {name: term.to(x.dtype) for name, term in self._terms(x).items()}

    def _terms(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        key = (x.device, x.dtype)
        if key not in self._converted:
            self._converted[key] = _convert(self.parameters, *key)
        return energy_terms(x, self._converted[key])

    def _autograd(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            x = x.requires_grad_()
            total = sum(self._terms(x).values())
            (gradient,) = torch.autograd.grad(total.sum(), x)
        energy = _finite_or_inf(total.detach()).to(x.dtype)
        usable = energy.isfinite()[:, None, None] & gradient.isfinite()
        return energy, torch.where(usable, -gradient, 0.0)

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 3 or x.shape[1:] != (self.num_atoms, 3):
            raise ValueError(
                f"positions have shape {tuple(x.shape)}; give (n, {self.num_atoms}, 3) in nm"
            )
        x = x.to(device=self.device, dtype=self.dtype)
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"positions are {x.dtype}; give float32 or float64")
        return x

    def _kernel(self, x: torch.Tensor) -> "native.Kernel | GpuKernel | None":
        if not self.fused:
            return None
        key = (x.device, x.dtype)
        if key not in self._kernels:
            self._kernels[key] = (
                native.make_kernel(self.parameters, x.dtype)
                if x.device.type == "cpu"
                else make_gpu_kernel(self.parameters, x.dtype, x.device)
            )
        return self._kernels[key]

    def fused_kernel(self, x: torch.Tensor) -> "native.Kernel | None":
        """The C kernel that evaluates positions like x; None where torch does."""
        ours = self.device in (None, x.device) and self.dtype in (None, x.dtype)
        ours = ours and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        return self._kernel(x) if ours else None

    def _rows_at_once(self) -> int:
        return max(1, _PAIRS_AT_ONCE // self.num_atoms**2)

    def _threads(self) -> int:
        return self.num_threads or torch.get_num_threads()


class _FusedEnergy(torch.autograd.Function):
    """Energies of the C kernel; their derivative is the kernel's own force."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, field: ForceField) -> torch.Tensor:
        energy, forces = field.energy_and_forces(x)
        ctx.field = field
        ctx.save_for_backward(x, forces)
        return energy

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, forces = ctx.saved_tensors
        return -grad[:, None, None] * _FusedForces.apply(x, forces, ctx.field), None


class _FusedForces(torch.autograd.Function):
    """Forces of the C kernel; second derivatives of the energy come from plain torch."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forces: torch.Tensor, field: ForceField) -> torch.Tensor:
        ctx.field = field
        ctx.save_for_backward(x)
        return forces.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            total = sum(ctx.field._terms(x).values()).sum()
            (gradient,) = torch.autograd.grad(total, x, create_graph=True)
            (curvature,) = torch.autograd.grad((gradient * grad).sum(), x)
        return -curvature, None, None


def _finite_or_inf(energy: torch.Tensor) -> torch.Tensor:
    return torch.where(energy.isnan(), torch.inf, energy)


def _convert(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Moves every tensor of a (nested) dataclass; only floating ones change precision."""
    if isinstance(value, torch.Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return type(value)(**{k: _convert(v, device, dtype) for k, v in fields.items()})
    return value
