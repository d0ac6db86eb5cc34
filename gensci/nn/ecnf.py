"""The equivariant baseline: a continuous flow from Gaussian noise, with its exact density.

Positions without centroid start as Gaussian noise on the 3N - 3 directions that do not move it and
follow an equivariant vector field from t = 0 to 1; log q is that of the noise less the integral of
the field's exact divergence. The centroid is normal and independent, which makes it a density on
R^{3N}. The field is learned by flow matching on straight paths, from noise turned onto the data.

Ref: Chen et al. 2018, arXiv 1806.07366 (continuous flows); Lipman et al. 2022, arXiv 2210.02747
(flow matching); Klein, Kraemer and Noe 2023, arXiv 2306.15030 (equivariant flow matching); Klein
and Noe 2024, arXiv 2406.14426 (transferable Boltzmann generators).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from gensci.core.errors import UsageError
from gensci.core.registry import MODELS

from .egnn import VectorField
from .topology import PairTerms, Tensors, TopologyEmbedding, encode_topology

PAIRS_AT_ONCE = {"cpu": 20_000, "cuda": 500_000}
PRIORS = ("isotropic", "bonded")
BOND_SPREAD = 0.08  # nm per axis, of the bonded prior's springs


@MODELS.register("ecnf")
class ContinuousFlow(nn.Module):
    """Transferable continuous normalizing flow; see the module's docstring.

    Args:
        channels: width of the field.
        prior: "isotropic", the same spread of every atom, or "bonded", a Gaussian whose springs
            follow the bond graph, so that noise already has bonded atoms close to each other. Ref:
            Jing et al. 2023, arXiv 2304.02198 (harmonic prior).
        prior_scale: spread of an atom about the centroid, nm per axis (without springs).
        centroid_scale: the centroid is N(0, centroid_scale^2 / N) per axis (nm).
        num_steps: Runge-Kutta steps of fourth order in logarithmic time, even; samples and
            log q come from the same steps. Their size is fixed, so a sample does not depend on
            which others it is drawn with.
        floor: of 1 - t in logarithmic time.

    Raises:
        UsageError: a setting is out of its range.
    """

    def __init__(
        self,
        channels: int = 64,
        prior: str = "isotropic",
        prior_scale: float = 0.2,
        centroid_scale: float = 0.35,
        num_steps: int = 16,
        floor: float = 0.02,
    ):
        super().__init__()
        if prior not in PRIORS:
            raise UsageError(f"prior {prior!r}", f"choose from {', '.join(PRIORS)}")
        if num_steps < 2 or num_steps % 2:
            raise UsageError(f"num_steps {num_steps}", "give an even number of steps")
        self.settings = {
            "channels": channels,
            "prior": prior,
            "prior_scale": prior_scale,
            "centroid_scale": centroid_scale,
            "num_steps": num_steps,
            "floor": floor,
        }
        self.prior, self.prior_scale, self.num_steps = prior, prior_scale, num_steps
        self.centroid_scale = centroid_scale
        self.topology = TopologyEmbedding(channels)
        self.field = VectorField(channels, floor)

    encode = staticmethod(encode_topology)

    def modes(self, cond: Tensors) -> Tensor:
        """Noise is modes @ z with z standard normal: (N, N - 1), nm; columns sum to zero."""
        hops = cond["hops"]
        count = len(hops)
        eye = torch.eye(count, dtype=torch.float64, device=hops.device)
        precision = (eye - 1 / count) / self.prior_scale**2
        if self.prior == "bonded":
            springs = (hops == 1).double() / BOND_SPREAD**2
            precision = precision + torch.diag(springs.sum(-1)) - springs
        values, vectors = torch.linalg.eigh(precision)
        modes = vectors[:, 1:] / values[1:].sqrt()
        return modes.to(cond["distance"].dtype)

    def noise(self, n: int, cond: Tensors, generator: Generator | None) -> Tensor:
        """Noise (n, N, 3) nm without centroid."""
        modes = self.modes(cond)
        device = modes.device if generator is None else generator.device
        shape = (n, modes.shape[1], 3)
        z = torch.randn(shape, generator=generator, device=device, dtype=modes.dtype)
        return modes @ z.to(modes.device)

    def noise_log_prob(self, x: Tensor, cond: Tensors) -> Tensor:
        """Log-density (batch,) of noise x on the subspace without centroid, in its own volume."""
        modes = self.modes(cond)
        scale = modes.norm(dim=0)  # the columns are orthogonal
        z = (modes / scale.square()).T @ x
        size = 3 * modes.shape[1]
        normal = -0.5 * z.square().sum((-1, -2)) - 0.5 * size * math.log(2 * math.pi)
        return normal - 3 * scale.log().sum()

    def centroid_log_prob(self, centroid: Tensor, num_atoms: int) -> Tensor:
        """Log-density of sqrt(N) times the centroid (batch, 3) nm, the unit direction of R^{3N}."""
        variance = self.centroid_scale**2
        squares = num_atoms * centroid.square().sum(-1)
        return -0.5 * squares / variance - 1.5 * math.log(2 * math.pi * variance)

    def velocity(self, x: Tensor, t: Tensor, cond: Tensors) -> Tensor:
        """The field (batch, N, 3) at positions x and times t (batch,), nm."""
        return self.field(x, t, self.topology(cond))

    def matching_loss(self, x: Tensor, cond: Tensors, generator: Generator) -> Tensor:
        """Mean squared error of the field on straight paths from noise to x, over the noise's.

        Times are even in logarithmic time, where the field changes evenly. Noise is turned onto its
        data point, which leaves its distribution Gaussian (both may be turned further, as the field
        does not mind) and makes paths shorter.

        Args:
            x: data (batch, N, 3), nm.
            cond: of the molecule.
            generator: draws noise and times.
        """
        x = x - x.mean(1, keepdim=True)
        start = turned_onto(self.noise(len(x), cond, generator), x)
        tau = torch.rand(len(x), generator=generator, device=generator.device, dtype=x.dtype)
        t = self.field.time_at(tau.to(x.device))
        between = torch.lerp(start, x, t[:, None, None])
        error = self.velocity(between, t, cond) - (x - start)
        return error.square().sum((-1, -2)).mean() / (3 * self.modes(cond).square().sum())

    def transport(self, x: Tensor, terms: PairTerms, backwards: bool) -> tuple[Tensor, Tensor]:
        """Follow the field through all of time.

        Steps are of the fourth order; the divergence, which costs more than the field, is taken at
        the ends of steps only and integrated by Simpson's rule over pairs of them.

        Args:
            x: noise, or data where ``backwards`` (batch, N, 3), nm, without centroid.
            terms: of the molecule.
            backwards: from data to noise.

        Returns:
            The other end (batch, N, 3) and the integral of the divergence over time from 0 to 1.
        """
        steps = self.num_steps
        grid = torch.linspace(0, 1, 2 * steps + 1, dtype=torch.float64).to(x)
        h = 1 / steps
        if backwards:
            grid, h = grid.flip(0), -h
        times, rates = self.field.time_at(grid), self.field.rate_at(grid)

        def slope(x: Tensor, k: int) -> Tensor:
            return rates[k] * self.field(x, times[k : k + 1], terms)

        total = x.new_zeros(len(x))
        for k in range(0, 2 * steps + 1, 2):
            v, divergence = self.field.with_divergence(x, times[k : k + 1], terms)
            ends = k in (0, 2 * steps)
            total = total + (1 if ends else 4 if k % 4 else 2) * rates[k] * divergence
            if k == 2 * steps:
                break
            a = rates[k] * v
            b = slope(x + 0.5 * h * a, k + 1)
            c = slope(x + 0.5 * h * b, k + 1)
            d = slope(x + h * c, k + 2)
            x = x + h / 6 * (a + 2 * (b + c) + d)
        return x, total * (abs(h) / 3)

    def log_prob(self, x: Tensor, cond: Tensors) -> Tensor:
        """Log-density (nats) on R^{3N} of x (batch, atoms, 3) nm, one molecule: (batch,).

        ``cond`` is what :meth:`encode` returned for the molecule, without batch dimension.
        """
        terms = self.topology(cond)
        centroid = x.mean(1)
        noise, change = self.transport(x - centroid[:, None], terms, backwards=True)
        shape = self.noise_log_prob(noise, cond) - change
        return shape + self.centroid_log_prob(centroid, x.shape[1])

    @torch.no_grad()
    def sample_and_log_prob(
        self, n: int, cond: Tensors, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws and their log-density from the same pass.

        Returns:
            x (n, atoms, 3) nm, and log q (n,) nats on R^{3N}.
        """
        terms = self.topology(cond)
        noise = self.noise(n, cond, generator)
        atoms = noise.shape[1]
        pairs = PAIRS_AT_ONCE.get(noise.device.type, PAIRS_AT_ONCE["cpu"])
        positions, change = [], []
        for part in noise.split(max(1, pairs // atoms**2)):
            x, total = self.transport(part, terms, backwards=False)
            positions.append(x)
            change.append(total)
        x, change = torch.cat(positions), torch.cat(change)
        centroid = torch.randn(n, 3, generator=generator, device=generator.device, dtype=x.dtype)
        centroid = centroid.to(x.device) * (self.centroid_scale / math.sqrt(atoms))
        log_q = self.noise_log_prob(noise, cond) - change
        return x + centroid[:, None], log_q + self.centroid_log_prob(centroid, atoms)


@torch.no_grad()
def turned_onto(x: Tensor, onto: Tensor) -> Tensor:
    """Each x (batch, N, 3) rotated to be as near as possible to its `onto`, both centred.

    Mirror images are not allowed. Ref: Kabsch 1976, doi:10.1107/S0567739476001873.
    """
    u, _, vh = torch.linalg.svd(x.transpose(1, 2) @ onto)
    keep = torch.ones_like(x[:, 0])
    keep[:, 2] = torch.linalg.det(u @ vh).sign()
    return x @ ((u * keep[:, None]) @ vh)
