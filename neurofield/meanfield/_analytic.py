"""The methods of `solve` that draw no paths: closed forms, and diffusion theory of LIF neurons."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._results import RESULTS, choose
from neurofield.network import Exponential, Network

from ._closed import closed_form
from ._lif_network import lif_network
from ._theory import Theory


def analytic(theory: Theory, num_lags: int) -> tuple[dict[str, Array], RESULTS] | None:
    """Moments of a network that has a closed form, each `[1, ...]`; `None` for another network."""
    closed = closed_form(theory)
    if closed is None:
        return None
    lags = jnp.arange(num_lags, dtype=theory.dtype) * theory.dt
    spiking = jnp.asarray([p.neuron.kind == "spike" for p in theory.populations], theory.dtype)
    second = closed.second(lags).astype(theory.dtype)
    # On the grid of time steps the delta function of a spike train is one step wide.
    second = second.at[:, 0].add(spiking * closed.mean / theory.dt)
    sources = jnp.asarray(theory.sources, jnp.int32)
    # The streams of these families transmit the outputs as they are.
    found = _moments(
        theory, closed.mean, second, closed.quenched, second[sources], closed.mean[sources]
    )
    small = 1e-6 if theory.dtype == jnp.float64 else 1e-3
    result = choose(
        closed.residual < small, RESULTS.successful, RESULTS.nonlinear_max_steps_reached
    )
    return found, result


def diffusion(network: Network, theory: Theory, num_lags: int) -> tuple[dict[str, Array], RESULTS]:
    """Moments of a network of LIF neurons whose spikes are as white as Poisson's, `[1, ...]`."""
    rates = lif_network(network, throw=False)
    mean = rates.rate.astype(theory.dtype)
    lags = jnp.arange(num_lags, dtype=theory.dtype) * theory.dt
    first = jnp.where(lags == 0, 1.0, 0.0).astype(theory.dtype) / theory.dt
    squared = (mean**2)[:, None]
    rows, means = [], []
    for stream in theory.streams:
        rate = mean[stream.source]
        if isinstance(stream.kernel, Exponential):
            tau = stream.kernel.tau.astype(theory.dtype)
            rows.append(rate * tau / 2 * jnp.exp(-lags / tau) + (rate * tau) ** 2)
            means.append(rate * tau)
        else:
            rows.append(rate * first + rate**2)
            means.append(rate)
    filtered, levels = jnp.stack(rows), jnp.stack(means)
    second = mean[:, None] * first[None] + squared
    found = _moments(theory, mean, second, mean**2, filtered, levels)
    return found, rates.result


def _moments(
    theory: Theory,
    mean: Float[Array, "population"],
    second: Float[Array, "population lag"],
    quenched: Float[Array, "population"],
    transmitted: Float[Array, "stream lag"],
    level: Float[Array, "stream"],
) -> dict[str, Array]:
    squared = level**2
    static = quenched[jnp.asarray(theory.sources, jnp.int32)]
    # The static part of a stream is that of its source, in its own unit.
    own = mean[jnp.asarray(theory.sources, jnp.int32)]
    scale = jnp.where(own == 0, 1, level / jnp.where(own == 0, 1, own))
    products = jnp.broadcast_to(squared[:, None], transmitted.shape)
    found = {
        "mean": mean,
        "covariance": second - (mean**2)[:, None],
        "quenched": quenched - mean**2,
        "input_mean": theory.input_mean(level),
        "input_covariance": theory.input_covariance(transmitted, products),
        "input_quenched": theory.input_covariance(static * scale**2, squared),
    }
    return {name: x[None] for name, x in found.items()}
