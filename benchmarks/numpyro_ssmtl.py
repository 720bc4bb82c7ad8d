"""SSMTL in NumPyro, the whole step compiled: what a step of the zoo is compared with, beside plain PyTorch.

One thread, whatever is asked of torch: jax reads the number once, when it makes its CPU backend.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# PJRT_NPROC sizes the pool that operations run in, the flag keeps products of matrices out of Eigen's own.
os.environ.setdefault("PJRT_NPROC", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from numpyro import handlers
from numpyro.infer import Trace_ELBO
from numpyro.optim import Adam
from torch import nn
from variants import data, first_minibatch, model_for, zoo_training

from pyrozoo.inference.copies import default_dtype
from pyrozoo.inference.loop import Training

LR = {"networks": 1e-3, "contexts": 1e-2}  # as plain_optimizer
CONTEXTS = ("c_loc", "c_log_scale")
GATHER = ("inside", "outside")


class NumPyroSSMTL:
    """Model and guide of the zoo's SSMTL with the paper's guide; sizes, scales and weights from a `Training`.

    Shapes as in `plain_ssmtl.PlainSSMTL`, but x and y in the units of the data. A row's `weight` is what its stratum
    counts for: as a scale of the plate, since a subsample size would have every plate draw its own rows.
    """

    def __init__(self, training: Training) -> None:
        zoo, names = training.loss.model, ("floor", "alpha", "x_dim", "c_dim", "z_dim")
        self.floor, self.alpha, self.x_dim, self.c_dim, self.z_dim = (getattr(zoo, name) for name in names)
        self.x_loc, self.x_scale, self.y_loc, self.y_scale = (
            getattr(zoo, name).numpy() for name in ("x_loc", "x_scale", "y_loc", "y_scale")
        )
        self.sizes = dict(training.train.sizes)

    def model(self, x: Any, y: Any, unit: Any, labelled: Any, weight: Any) -> None:
        decoder = numpyro.param("decoder")
        with numpyro.plate("unit", self.sizes["unit"]):
            c = numpyro.sample("c", _standard_normal(self.c_dim))
        with numpyro.plate("row", len(x)), handlers.scale(scale=weight):
            z = numpyro.sample("z", _standard_normal(self.z_dim))
            loc, scale = _gaussian(decoder, self.floor, z, c[unit])
            numpyro.sample("x", self._x(loc[:, : self.x_dim], scale[:, : self.x_dim]), obs=x)
            numpyro.sample("y", self._y(loc[:, self.x_dim :], scale[:, self.x_dim :]), obs=y, obs_mask=labelled)

    def guide(self, x: Any, y: Any, unit: Any, labelled: Any, weight: Any) -> None:
        g_y, g_z, c_loc, c_log_scale = (numpyro.param(name) for name in ("g_y", "g_z", *CONTEXTS))
        with numpyro.plate("unit", self.sizes["unit"]):
            c = numpyro.sample("c", dist.Normal(c_loc, jnp.exp(c_log_scale)).to_event(1))
        x, c = (x - self.x_loc) / self.x_scale, c[unit]
        with numpyro.plate("row", len(x)), handlers.scale(scale=weight):
            q_y = self._y(*_gaussian(g_y, self.floor, x, c))
            with handlers.mask(mask=~labelled):
                drawn = numpyro.sample("y_unobserved", q_y)
            share = self.alpha * self.sizes["row"] / self.sizes["labelled"]
            numpyro.factor("y_head", -share * jnp.where(labelled, q_y.log_prob(y), 0.0))  # of a guide: with a minus
            y = (jnp.where(labelled[:, None], y, drawn) - self.y_loc) / self.y_scale
            numpyro.sample("z", dist.Normal(*_gaussian(g_z, 0.0, x, y, c)).to_event(1))

    def minibatch(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Rows of which the first half is labelled, with their weights."""
        n_rows = len(rows["x"])
        labelled = np.arange(n_rows) < n_rows // 2
        of_stratum = np.where(labelled, self.sizes["labelled"], self.sizes["unlabelled"]) / (n_rows // 2)
        return {**rows, "labelled": labelled, "weight": of_stratum.astype(rows["x"].dtype)}

    def _x(self, loc: Any, scale: Any) -> dist.Distribution:
        return dist.Normal(self.x_loc + self.x_scale * loc, self.x_scale * scale).to_event(1)

    def _y(self, loc: Any, scale: Any) -> dist.Distribution:
        return dist.Normal(self.y_loc + self.y_scale * loc, self.y_scale * scale).to_event(1)


class NumPyroTraining:
    """Steps on minibatches like those of `plain_ssmtl.plain_minibatches`, compiled as a whole, buffers donated.

    Args:
        training: Of the zoo; its weights are where these start.
        rows: Of a minibatch, the first half labelled.
        particles: Vectorised.
        gather: Whether a step gets indices and looks the rows up "inside" the compiled function, or NumPy does so
            "outside" and a step gets the rows.
    """

    def __init__(self, training: Training, rows: int, particles: int, gather: str = "inside") -> None:
        if gather not in GATHER:
            raise ValueError(f"gather: {gather!r} is none of {list(GATHER)}")
        self._optimizers = {name: Adam(lr) for name, lr in LR.items()}
        states = {name: self._optimizers[name].init(values) for name, values in _grouped(weights(training)).items()}
        self.state = states, jax.random.key(0)
        ssmtl, elbo, inside = NumPyroSSMTL(training), Trace_ELBO(num_particles=particles), gather == "inside"
        everything = {name: training.train[name].numpy() for name in ("x", "y", "unit")}
        self._given = {name: jnp.asarray(values) for name, values in everything.items()} if inside else everything
        self._inside = inside

        def update(state: tuple, given: dict, chosen: Any) -> tuple[tuple, Any]:
            states, key = state
            key, now = jax.random.split(key)
            batch = ssmtl.minibatch({name: values[chosen] for name, values in given.items()} if inside else given)

            def loss(groups: dict[str, dict]) -> Any:
                params = {**groups["networks"], **groups["contexts"]}
                return elbo.loss(now, params, ssmtl.model, ssmtl.guide, **batch)

            value, gradients = jax.value_and_grad(loss)(self._parameters(states))
            states = {name: own.update(gradients[name], states[name]) for name, own in self._optimizers.items()}
            return (states, key), value

        def updates(state: tuple, given: dict, chosen: Any) -> tuple[tuple, Any]:
            return jax.lax.scan(lambda before, own: update(before, given, own), state, chosen)

        self._update, self._updates = (jax.jit(function, donate_argnums=0) for function in (update, updates))
        self._indices = _indices(*(training.train.strata[name].numpy() for name in ("labelled", "unlabelled")), rows)

    @property
    def params(self) -> dict[str, Any]:
        """Copies: the next step takes the originals' buffers."""
        groups = self._parameters(self.state[0])
        return jax.tree.map(np.array, {**groups["networks"], **groups["contexts"]})

    def step(self) -> Any:
        """One optimiser step on the next minibatch; returns the loss once all of the step is done."""
        chosen = next(self._indices)
        if self._inside:
            self.state, loss = self._update(self.state, self._given, chosen)
        else:
            given = {name: values[chosen] for name, values in self._given.items()}
            self.state, loss = self._update(self.state, given, None)
        jax.block_until_ready((self.state, loss))  # or the clock stops while jax's own thread still works
        return loss

    def steps(self, number: int) -> Any:
        """As many steps in one call of a compiled loop, as `SVI.run` without its progress bar; returns their losses."""
        if not self._inside:
            raise ValueError("gather: 'outside'; the compiled loop looks rows up inside")
        chosen = np.stack(list(itertools.islice(self._indices, number)))
        self.state, losses = self._updates(self.state, self._given, chosen)
        jax.block_until_ready((self.state, losses))
        return losses

    def _parameters(self, states: Mapping[str, Any]) -> dict[str, dict]:
        return {name: own.get_params(states[name]) for name, own in self._optimizers.items()}


def numpyro_variant(
    training: Training, rows: int, particles: int, gather: str = "inside"
) -> tuple[NumPyroTraining, Callable[[], Any]]:
    """The training in NumPyro, from the zoo's weights, and its step on minibatches like the zoo's."""
    variant = NumPyroTraining(training, rows, particles, gather)
    return variant, variant.step


def weights(training: Training, values: Callable[[torch.Tensor], Any] = lambda tensor: tensor) -> dict[str, Any]:
    """The zoo's parameters as NumPyro's; `values`: what to take of each, by default itself."""

    def taken(parameter: torch.Tensor) -> np.ndarray:
        return np.array(values(parameter).detach().numpy())  # a copy: a step must not write to the zoo's memory

    def layers(net: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(taken(layer.weight).T, taken(layer.bias)) for layer in net.modules() if isinstance(layer, nn.Linear)]

    model, guide = training.loss.model, training.loss.guide
    networks = {"g_y": guide.local.g_y, "g_z": guide.local.g_z, "decoder": model.decoder}
    return {name: layers(net) for name, net in networks.items()} | {n: taken(getattr(guide, n)) for n in CONTEXTS}


def disagreement_numpyro(rows: int, particles: int, units: int = 50, width: int = 200) -> dict[str, float]:
    """Largest relative difference between the zoo's and NumPyro's loss, and between their gradients.

    In double precision, on one minibatch, with the same weights and the noise that the zoo drew. The difference of a
    gradient is relative to the parameter's largest entry.
    """
    with default_dtype(torch.float64):
        train = data(rows, units, torch.float64)
        training = zoo_training(model_for(train, width), train, rows, particles)
        batch = first_minibatch(train, rows)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            zoo_loss = training.loss(batch)
            torch.manual_seed(1)  # once more, alone: the zoo draws c, y of all rows and z in this order
            zoo = training.loss.model
            shapes = {"c": (units, zoo.c_dim), "y_unobserved": (rows, zoo.y_dim), "z": (rows, zoo.z_dim)}
            noise = {name: torch.randn(particles, *shape).numpy() for name, shape in shapes.items()}
    zoo_loss.backward()
    with jax.enable_x64(True):
        taken = {name: batch[name].numpy() for name in ("x", "y", "unit")}
        replayed = jax.jit(jax.value_and_grad(functools.partial(_replayed, NumPyroSSMTL(training))))
        loss, gradients = replayed(weights(training), taken, noise)
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(weights(training, lambda p: p.grad)), strict=True)
        largest = max(float(np.abs(own - zoo).max() / np.abs(zoo).max()) for own, zoo in pairs)
        return {"loss": abs(float(loss) / float(zoo_loss.detach()) - 1), "gradients": largest}


def _replayed(ssmtl: NumPyroSSMTL, params: dict, taken: dict[str, Any], noise: dict[str, Any]) -> Any:
    """The loss with loc + scale * noise in place of draws, the mean over the particles."""

    def loss(own: Mapping[str, Any]) -> Any:
        def value(site: dict) -> Any:
            if site["name"] not in own:
                return None
            normal = site["fn"]
            while not isinstance(normal, dist.Normal):  # masked, expanded, with event dimensions
                normal = normal.base_dist
            return normal.loc + normal.scale * own[site["name"]]

        guide = handlers.substitute(ssmtl.guide, substitute_fn=value)
        return Trace_ELBO().loss(jax.random.key(0), params, ssmtl.model, guide, **ssmtl.minibatch(taken))

    return jax.vmap(loss)(noise).mean()


def _indices(labelled: np.ndarray, unlabelled: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """As `plain_ssmtl.plain_minibatches`, without end; whole minibatches only, since others compile anew."""
    rng, each = np.random.default_rng(0), rows // 2
    if min(len(labelled), len(unlabelled)) < each:
        raise ValueError(f"rows: {rows}; too few for a whole minibatch")

    def cycle(stratum: np.ndarray) -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(stratum)
            yield from order[: len(order) // each * each].reshape(-1, each)

    for pair in zip(cycle(labelled), cycle(unlabelled), strict=True):
        yield np.concatenate(pair).astype(np.int32)


def _grouped(params: Mapping[str, Any]) -> dict[str, dict]:
    contexts = {name: params[name] for name in CONTEXTS}
    return {"networks": {name: own for name, own in params.items() if name not in CONTEXTS}, "contexts": contexts}


def _standard_normal(size: int) -> dist.Distribution:
    return dist.Normal(jnp.zeros(size), 1.0).to_event(1)


def _gaussian(layers: Sequence[tuple[Any, Any]], floor: float, *inputs: Any) -> tuple[Any, Any]:
    hidden = jnp.concatenate(inputs, -1)
    for weight, bias in layers[:-1]:
        hidden = jax.nn.relu(hidden @ weight + bias)
    weight, bias = layers[-1]
    loc, log_scale = jnp.split(hidden @ weight + bias, 2, -1)
    return loc, floor + jnp.exp(log_scale)
