"""The published diffusion head: noise and variance of a 3-vector under a condition.

A residual network whose norms are modulated by noise level and condition (Li et al. 2024,
arXiv:2406.11838; Peebles and Xie 2023, arXiv:2212.09748), trained on the 1000 steps of a cosine
schedule with a learned variance (Nichol and Dhariwal 2021, arXiv:2102.09672), as used by UniGenX
(Zhang et al. 2025, arXiv:2503.06687).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_FEATURES, LONGEST_PERIOD = 256, 1e4
NORM_EPS = 1e-6
HALF_BIN = 1 / 255  # half the width of a grey level: the bound was taken over from images
EDGE = 0.999


@dataclass(frozen=True)
class DdpmSchedule:
    """Variances of the discrete steps, float64 (T,) each.

    Attributes:
        betas: Variance added by step t.
        log_betas: Their logarithms.
        log_posterior: Log-variance of x_{t-1} given x_t and x_0; at t = 0 that of t = 1.
        signal: Share abar_t of the data's variance that is left.
        log_sigmas: log(sqrt(1 / abar_t - 1)), rising.
    """

    betas: Tensor
    log_betas: Tensor
    log_posterior: Tensor
    signal: Tensor
    log_sigmas: Tensor

    @staticmethod
    def cosine(steps: int = 1000) -> DdpmSchedule:
        """The schedule of Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17."""
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
        signal = (1 - betas).cumprod(0)
        before = F.pad(signal[:-1], (1, 0), value=1.0)
        posterior = betas * (1 - before) / (1 - signal)
        posterior[0] = posterior[1]  # exactly zero otherwise
        sigmas = ((1 - signal) / signal).sqrt()
        return DdpmSchedule(betas, betas.log(), posterior.log(), signal, sigmas.log())

    def to(self, device: torch.device) -> DdpmSchedule:
        """The same numbers on a device."""
        moved = (getattr(self, field.name).to(device) for field in fields(self))
        return DdpmSchedule(*moved)

    def steps_of(self, sigma: Tensor) -> Tensor:
        """Fractional step (n,) whose log-signal-to-noise, linear in between, fits ``sigma``."""
        wanted = sigma.double().log()
        upper = torch.searchsorted(self.log_sigmas, wanted).clamp(1, len(self.betas) - 1)
        low, high = self.log_sigmas[upper - 1], self.log_sigmas[upper]
        return upper - 1 + ((wanted - low) / (high - low)).clamp(0, 1)


class HeadBlock(nn.Module):
    """Residual block: modulated norm, two linear maps, and a gate.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        """Map ``u`` (n, width) under the activated condition ``y`` (n, width)."""
        shift, scale, gate = self.modulation(y).chunk(3, -1)
        return u + gate * self.mlp(self.norm(u) * (1 + scale) + shift)


class DdpmHead(nn.Module):
    """Network of noise and variance, its training loss, and its denoiser.

    Args:
        condition: Width of the conditioning states.
        width: Channels.
        depth: Residual blocks.
        learn_sigma: Whether the variance is learned; else it is that of the forward step.
    """

    def __init__(self, condition: int, width: int, depth: int, learn_sigma: bool = True) -> None:
        super().__init__()
        self.learn_sigma = learn_sigma
        self.width = width
        self.enter = nn.Linear(3, width)
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.condition = nn.Linear(condition, width)
        self.blocks = nn.ModuleList(HeadBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, 6 if learn_sigma else 3)
        self._schedule = DdpmSchedule.cosine()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as published: gates and output start at zero."""
        zero = [self.leave, self.modulation, *(block.modulation for block in self.blocks)]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in zero:
            nn.init.zeros_(layer.weight)

    @property
    def schedule(self) -> DdpmSchedule:
        """The discrete steps, on the device of the weights."""
        device = self.leave.weight.device
        if self._schedule.betas.device != device:
            self._schedule = self._schedule.to(device)
        return self._schedule

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Noise, and variance if learned, of variance-preserving points.

        Args:
            x: Noisy points (n, 3).
            t: Steps (n,), whole or fractional.
            z: Conditions (n, condition).

        Returns:
            (n, 6), or (n, 3) where the variance is not learned.
        """
        return self.respond(x, t, self.condition(z))

    def respond(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """As :meth:`forward`, from conditions ``c`` (n, width) that went through the first map."""
        y = F.silu(self.time(time_features(t).to(c.dtype)) + c)
        u = self.enter(x)
        for block in self.blocks:
            u = block(u, y)
        shift, scale = self.modulation(y).chunk(2, -1)
        return self.leave(self.norm(u) * (1 + scale) + shift)

    def loss(self, z: Tensor, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Training loss at one random step and noise per row.

        Args:
            z: Conditions (M, condition).
            x0: Clean points (M, 3).
            generator: Source of steps and noise.

        Returns:
            (M,): squared error of the noise, mean over three numbers, plus the bound in bits.
        """
        device = generator.device
        t = torch.randint(len(self.schedule.betas), (len(x0),), generator=generator, device=device)
        eps = torch.randn(x0.shape, generator=generator, device=device, dtype=x0.dtype)
        t, eps = t.to(x0.device), eps.to(x0.device)
        signal = self.schedule.signal[t, None]
        x = signal.sqrt().to(x0.dtype) * x0 + (1 - signal).sqrt().to(x0.dtype) * eps
        out = self(x, t, z).to(x0.dtype)
        error = out[:, :3] - eps
        loss = error.square().mean(-1)
        # The bound trains the variance alone.
        return loss + self.bound(error.detach(), out, x0, t) if self.learn_sigma else loss

    def bound(self, error: Tensor, out: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Term t of the variational bound, in bits, mean over the three numbers.

        The decoder term at t = 0 is that of grey levels in [-1, 1], as in the published loss.

        Args:
            error: Estimated minus true noise (M, 3).
            out: Output of the network (M, 6).
            x0: Clean points (M, 3).
            t: Steps (M,) int64.

        Returns:
            (M,) values.
        """
        s = self.schedule
        # Posterior and model mean have x_t in common; only the noise tells them apart. Written
        # so, nothing cancels where hardly any signal is left.
        slope = s.betas[t] / ((1 - s.betas[t]) * (1 - s.signal[t])).sqrt()
        offset = slope[:, None].to(x0.dtype) * error
        model = self.log_variance(out, t)
        true = s.log_posterior[t, None].to(model.dtype)
        ratio = torch.exp(true - model) + offset.square() * torch.exp(-model)
        nats = torch.where(
            t[:, None] == 0, _decoder(x0, offset, model), 0.5 * (ratio - 1 + model - true)
        )
        return nats.mean(-1) / math.log(2.0)

    def log_variance(self, out: Tensor, t: Tensor) -> Tensor:
        """Log-variance (n, 3) of the reverse step from t to t - 1, of the network's output."""
        high = self.schedule.log_betas[t, None].to(out.dtype)
        if not self.learn_sigma:
            return high.expand(-1, 3)
        low = self.schedule.log_posterior[t, None].to(out.dtype)
        return torch.lerp(low, high, (out[:, 3:] + 1) / 2)

    def denoiser(self, z: Tensor) -> DdpmDenoiser:
        """The distributions of n vectors under conditions ``z`` (n, condition)."""
        # Under autocast the map returns low precision; points and noise levels need the full one.
        return DdpmDenoiser(self, self.condition(z).to(z.dtype))


@dataclass(frozen=True)
class DdpmDenoiser:
    """Conditional distributions for solvers; see `gensci.core.diffusion.Denoiser`.

    The variance-preserving network is read in elucidated form, x = x0 + sigma eps, by scaling with
    1 / sqrt(1 + sigma^2). It serves as its own `ddpm` capability as well.

    Attributes:
        head: The network.
        c: Conditions (n, width) behind their first map.
    """

    head: DdpmHead
    c: Tensor

    @property
    def ddpm(self) -> DdpmDenoiser:
        """The discrete diffusion: this object."""
        return self

    @property
    def betas(self) -> Tensor:
        """Variances of the forward steps (T,), float64."""
        return self.head.schedule.betas

    @property
    def sigma_range(self) -> tuple[Tensor, Tensor]:
        """Noise levels (n,) of the first and the last step."""
        ends = self.head.schedule.log_sigmas[[0, -1]].exp().to(self.c.dtype)
        low, high = ends[:, None].expand(2, len(self.c))
        return low, high

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimate (n, 3) of E[x0 | x] at noise levels (n,)."""
        scaled = x / (1 + sigma.square()).sqrt()[:, None]
        out = self.head.respond(scaled, self.head.schedule.steps_of(sigma), self.c)
        return x - sigma[:, None] * out[:, :3].to(x.dtype)

    def noise_and_log_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and log-variance of the step to t - 1, (n, 3) each, of points at steps (n,)."""
        out = self.head.respond(x, t, self.c).to(x.dtype)
        return out[:, :3], self.head.log_variance(out, t)

    def prior(self, generator: torch.Generator) -> Tensor:
        """Draw (n, 3) at the largest noise level."""
        noise = torch.randn(
            (len(self.c), 3), generator=generator, device=generator.device, dtype=self.c.dtype
        )
        return noise.to(self.c.device) * self._prior_width()

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-density (n,) of :meth:`prior`."""
        width = self._prior_width()
        return -0.5 * (x / width).square().sum(-1) - 3 * math.log(width * math.sqrt(2 * math.pi))

    def wrap(self, x: Tensor) -> Tensor:
        """``x`` itself: all rows are Euclidean, fractional coordinates too."""
        return x

    def _prior_width(self) -> float:
        """Width of the noisy points at the last step; data of width one are part of it."""
        return math.sqrt(1 + math.exp(2 * float(self.head.schedule.log_sigmas[-1])))


def time_features(t: Tensor) -> Tensor:
    """Cosines, then sines (n, 256), of steps (n,); the longest period is 10^4 steps."""
    half = TIME_FEATURES // 2
    powers = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angle = t.float()[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * powers)
    return torch.cat((angle.cos(), angle.sin()), -1)


def _decoder(x0: Tensor, offset: Tensor, log_variance: Tensor) -> Tensor:
    """Minus log-probability of the grey level of ``x0``; ``offset`` is the mean minus ``x0``."""
    inverse = torch.exp(-0.5 * log_variance)
    above = torch.special.ndtr((HALF_BIN - offset) * inverse)
    below = torch.special.ndtr((-HALF_BIN - offset) * inverse)
    # The outermost levels reach to infinity.
    above = torch.where(x0 > EDGE, torch.ones_like(above), above)
    below = torch.where(x0 < -EDGE, torch.zeros_like(below), below)
    return -(above - below).clamp(min=1e-12).log()
