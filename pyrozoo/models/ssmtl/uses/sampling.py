"""Markov chains for a row's latent state in SSMTL, given some entries of the row.

A row of unit i is v = (x, y). Given draws c ~ q(c_i) of the fit, its unobserved entries follow from eq. 2:

    p(z | v_obs, c) ∝ p(z) p(v_obs | z, c),    v_mis ~ p(v_mis | z, c)

Given z and c all entries of x and y are independent, so v_mis integrates out and only z needs Markov chains: one chain
per row and draw of c, whose last state is the draw. A sweep of all chains consists of

* a guide move: complete the row by v_mis ~ p(v_mis | z, c), propose z' ~ q(z | x, y, c) of the row guide, and accept by
  the Metropolis-Hastings rule (Mattei and Frellsen 2018, "Leveraging the exact likelihood of deep latent variable
  models", algorithm 1, after the pseudo-Gibbs sampler of Rezende et al. 2014). The target is the posterior of the
  model, whatever the guide.
* two difference moves: a chain moves along the difference of two other chains of the same row (ter Braak 2006, "A
  Markov chain Monte Carlo version of the genetic algorithm differential evolution"), first one half of the chains by
  the other half, then the reverse. Size and direction of the steps come from the row's own posterior, not the guide.

Chains start from generated rows of the row's unit, resampled by the likelihood of v_obs, which is tempered so that a
few of them do not take all the weight. Groups of chains share a start: half of the groups start at the z of the
generated row, half at a z that the row guide draws for the completed row. Means that differ between the groups show
that the start is not yet forgotten (nested R-hat: Margossian et al. 2024, "Nested R-hat: assessing the convergence of
Markov chain Monte Carlo when running many short chains").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ....modeling.warps import unwarped
from ..local_guide import RowGuide
from ..model import SSMTL

CHUNK = 100_000  # largest number of rows x draws in memory
POOL = 4096  # number of generated rows of a unit, from which its chains start
EFFECTIVE = 50.0  # least effective number of rows of the pool after weighting
GROUPS = 10  # number of groups of chains; the chains of a group have the same start
R_HAT = 1.1


class Rows(NamedTuple):
    """Rows whose unobserved entries are to be drawn.

    Values are on the scale on which they are normal given z and c, that of the model's transforms.

    Shapes: value (R, 1, V) and seen (R, 1, V) with V = Dx + Dy, where value is arbitrary but finite if not seen;
    c (R, S, K), one draw of the unit's context per chain.
    """

    value: Tensor
    seen: Tensor
    c: Tensor

    def take(self, rows: Tensor) -> Rows:
        """Select rows by index."""
        return Rows(*(part[rows] for part in self))


class State(NamedTuple):
    """State of the chains: z (R, S, D), and loc and scale (R, S, V) of p(v | z, c)."""

    z: Tensor
    loc: Tensor
    scale: Tensor

    def where(self, accepted: Tensor, other: State) -> State:
        """Take the state of `other` for the chains that `accepted`, (R, S), marks, and this one for the rest."""
        return State(*(torch.where(accepted[..., None], new, old) for new, old in zip(other, self, strict=True)))

    def take(self, rows: Tensor) -> State:
        """Select rows by index."""
        return State(*(part[rows] for part in self))

    def chains(self, index: Tensor) -> State:
        """Select chains by index, the same in every row."""
        return State(*(part[:, index] for part in self))


class Sampler:
    """The Markov chains of this module.

    Args:
        model: Model whose posterior is the target.
        guide: Row guide that proposes; None leaves the guide moves out.
    """

    def __init__(self, model: SSMTL, guide: RowGuide | None) -> None:
        self.model, self.guide = model, guide
        self.tried: dict[str, int] = {}
        self.accepted: dict[str, float] = {}

    # ---------------------------------------------------------------- densities
    def at(self, z: Tensor, c: Tensor) -> State:
        """State of the chains at z (R, S, D), given contexts c (R, S, K)."""
        x, y = (unwarped(p) or p.base_dist for p in self.model.decode(z, c))
        return State(z, torch.cat([x.loc, y.loc], -1), torch.cat([x.scale, y.scale], -1))

    def log_joint(self, state: State, value: Tensor, seen: Tensor | None = None) -> Tensor:
        """Log p(z) p(v | z, c), (R, S), where v holds the entries that are seen, by default all."""
        density = torch.distributions.Normal(state.loc, state.scale, validate_args=False).log_prob(value)
        density = density if seen is None else density.where(seen, density.new_zeros(()))
        return self.model.prior("z").log_prob(state.z) + density.sum(-1)

    def complete(self, state: State, rows: Rows) -> Tensor:
        """Complete the rows, (R, S, V), by drawing the entries that are not seen."""
        return torch.where(rows.seen, rows.value, torch.normal(state.loc, state.scale))

    def row_guide(self, value: Tensor, c: Tensor) -> torch.distributions.Distribution:
        """q(z | x, y, c) of complete rows (R, S, V)."""
        model = self.model
        x, y = value.split([model.x_dim, model.y_dim], -1)
        x = x if model.x_warp is None else model.x_warp(x)
        y = model.standardise_y(y if model.y_warp is None else model.y_warp(y))
        assert self.guide is not None  # without one there are no guide moves
        loc, scale = self.guide.g_z(*model.inputs(x), y, c)
        return torch.distributions.Normal(loc, scale, validate_args=False)

    # ---------------------------------------------------------------- start
    def start(self, rows: Rows, unit: Tensor) -> State:
        """Start chains at generated rows of each row's unit (R,), resampled by the likelihood of the seen entries."""
        n_rows, n_chains = rows.c.shape[:2]
        z = rows.c.new_empty(n_rows, GROUPS, self.model.z_dim)
        value = rows.c.new_empty(n_rows, GROUPS, rows.value.shape[-1])
        for position in unit.unique():
            of_unit = (unit == position).nonzero()[:, 0]
            c = rows.c[of_unit[0]].repeat(-(-POOL // n_chains), 1)[None]
            pool = self.at(self.model.prior("z").expand(c.shape[:2]).sample(), c)
            generated = torch.normal(pool.loc, pool.scale)
            for part in of_unit.split(max(1, 50 * CHUNK // (c.shape[1] * value.shape[-1]))):
                chosen = torch.multinomial(self._weights(pool, rows.take(part)), GROUPS)
                z[part], value[part] = pool.z[0][chosen], generated[0][chosen]
        group = groups(n_chains, z.device)
        z = z[:, group]
        if self.guide is not None:
            guided = self.row_guide(torch.where(rows.seen, rows.value, value[:, group]), rows.c).sample()
            z = torch.where((group % 2 == 1)[:, None], guided, z)
        return self.at(z, rows.c)

    def _weights(self, pool: State, rows: Rows) -> Tensor:
        """Weights (R, P) of the pool: likelihoods to the largest power <= 1 with effective number >= `EFFECTIVE`."""
        normal = torch.distributions.Normal(pool.loc, pool.scale, validate_args=False)
        density = normal.log_prob(rows.value).where(rows.seen, pool.loc.new_zeros(())).sum(-1)
        low, high = torch.zeros_like(density[:, :1]), torch.ones_like(density[:, :1])
        power = high
        for _ in range(20):
            weights = (power * density).softmax(-1)
            enough = 1 / weights.square().sum(-1, keepdim=True) >= EFFECTIVE
            low, high = torch.where(enough, power, low), torch.where(enough, high, power)
            if bool((enough & (power == 1)).all()):
                break
            power = torch.where(low == 1, low, (low + high) / 2)
        return (low * density).softmax(-1)

    # ---------------------------------------------------------------- moves
    def sweep(self, state: State, rows: Rows) -> State:
        """Make one guide move (if there is a row guide) and two difference moves with every chain."""
        if self.guide is not None:
            state = self._guide_move(state, rows)
        for _ in range(2):
            state = self._difference_move(state, rows)
        return state

    def _guide_move(self, state: State, rows: Rows) -> State:
        value = self.complete(state, rows)
        q = self.row_guide(value, rows.c)
        proposed = self.at(q.sample(), rows.c)
        ratio = self.log_joint(proposed, value) - self.log_joint(state, value)
        ratio = ratio + q.log_prob(state.z).sum(-1) - q.log_prob(proposed.z).sum(-1)
        return self._accept("row guide", state, proposed, ratio)

    def _difference_move(self, state: State, rows: Rows) -> State:
        _, n_chains, dim = state.z.shape
        halves = torch.randperm(n_chains, device=state.z.device).chunk(2)
        parts = []
        for movers, others in (halves, halves[::-1]):
            now, c = state.chains(movers), rows.c[:, movers]
            pairs = [torch.randint(len(others), now.z.shape[:2], device=now.z.device) for _ in range(2)]
            first, second = (state.z[:, others].gather(1, p[..., None].expand(-1, -1, dim)) for p in pairs)
            # Most steps have the best size for a normal target, some are much shorter, some lead from mode to mode.
            size = 2.38 / (2 * dim) ** 0.5 * 10 ** -torch.rand(*now.z.shape[:2], 1).to(now.z)
            size = torch.where(torch.rand_like(size) < 0.1, torch.ones_like(size), size)
            step = size * (first - second) + 1e-4 * torch.randn_like(now.z)
            proposed = self.at(now.z + step, c)
            ratio = self.log_joint(proposed, rows.value, rows.seen) - self.log_joint(now, rows.value, rows.seen)
            parts.append(self._accept("differences", now, proposed, ratio))
            for whole, part in zip(state, parts[-1], strict=True):
                whole[:, movers] = part
        return state

    def _accept(self, move: str, state: State, proposed: State, log_ratio: Tensor) -> State:
        accepted = torch.rand_like(log_ratio).log() < log_ratio
        self.tried[move] = self.tried.get(move, 0) + accepted.numel()
        self.accepted[move] = self.accepted.get(move, 0.0) + float(accepted.sum())
        return state.where(accepted, proposed)


def groups(n_chains: int, device: torch.device) -> Tensor:
    """Index of each chain's group, (S,)."""
    return torch.arange(n_chains, device=device) % GROUPS


def nested_r_hat(values: list[Tensor]) -> Tensor:
    """Nested R-hat (R, V) from T successive values (R, S, V): whether the groups of chains agree in their means.

    The chains of a group share a start. A group counts as S / `GROUPS` independent values, so that the expected value
    is 1 once the start is forgotten.
    """
    first = values[0]
    n_chains = first.shape[1] // GROUPS * GROUPS
    stacked = torch.stack([v[:, :n_chains].unflatten(1, (-1, GROUPS)) for v in values])  # (T, R, S / G, G, V)
    between = stacked.mean((0, 2)).var(1)
    within = stacked.var((0, 2)).mean(1)
    size = n_chains // GROUPS
    return ((size - 1) / size + between / within).sqrt()


def converge(sampler: Sampler, rows: Rows, unit: Tensor, sweeps: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Run the chains of each row until it has converged, at most `rounds` times `sweeps` sweeps.

    Returns:
        Completed rows (R, S, V) from the last states, and R-hat (R, V).
    """
    state = sampler.start(rows, unit)
    r_hat = torch.full_like(rows.value[:, 0], torch.inf)
    active = torch.arange(len(unit), device=unit.device)
    for _ in range(rounds):
        own, part = rows.take(active), state.take(active)
        seconds = []
        for sweep in range(sweeps):
            part = sampler.sweep(part, own)
            if 2 * sweep >= sweeps:
                seconds.append(sampler.complete(part, own))
        for whole, new in zip(state, part, strict=True):
            whole[active] = new
        r_hat[active] = nested_r_hat(seconds)
        active = (r_hat.where(~rows.seen[:, 0], r_hat.new_zeros(())).amax(-1) > R_HAT).nonzero()[:, 0]
        if len(active) == 0:
            break
    return sampler.complete(state, rows), r_hat
