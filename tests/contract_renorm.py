"""Entries of the contract table for `renorm`, and for the graphs of `recording`."""

import jax
import jax.numpy as jnp
import numpy as np
from contract_case import case

from neurofield import recording, renorm


def undirected(draw, size=5):
    """Symmetric, positive off the diagonal: far from where `diffusion_weights` has its kinks."""
    return renorm.diffusion_weights(jnp.exp(draw.normal(size, size)))


def symmetrised(fn, weights, *args):
    """Along symmetric changes only, which these Laplacians ask for."""
    return fn((weights + weights.T) / 2, *args)


def correlations(draw, size=4):
    """A correlation matrix and a lagged one."""
    x = draw.normal(size, 3 * size)
    x = x / jnp.sqrt(jnp.sum(x**2, axis=1))[:, None]
    return x @ x.T, draw.normal(size, size, scale=0.1)


@case("renorm.diffusion_weights")
def _(draw):
    return (jnp.exp(draw.normal(4, 4)),)


for kind in ("combinatorial", "normalised", "signed"):
    # With loops: no weight is 0, from where a small step would be negative.
    case(f"renorm.laplacian[{kind}]", kind=kind, call=symmetrised)(
        lambda draw: (jnp.exp(draw.normal(4, 4)),)
    )


@case(
    "renorm.laplacian[magnetic]",
    call=lambda fn, a, q: jnp.real(fn(a, "magnetic", charge=q)),
    wrt=(0, 1),
)
@case("renorm.laplacian[walk]", call=lambda fn, a, q: fn(a, "walk", teleport=q), wrt=(0, 1))
def _(draw):
    return jnp.exp(draw.normal(4, 4)), 0.2 + 0.05 * jnp.tanh(draw.normal())


@case("renorm.heat_kernel", call=symmetrised, wrt=(0, 1))
def _(draw):
    return draw.normal(4, 4), jnp.exp(draw.normal())


@case("renorm.thermodynamics", call=symmetrised, wrt=(0, 1))
def _(draw):
    return renorm.laplacian(undirected(draw)), jnp.array([0.3, 1.0], draw.dtype)


@case("renorm.markov_stability", wrt=(0, 1, 2))
def _(draw):
    return (
        undirected(draw),
        jax.nn.softmax(draw.normal(5, 2), axis=1),
        jnp.exp(0.1 * draw.normal()),
    )


@case("renorm.aggregate", wrt=(0, 1))
def _(draw):
    return draw.normal(5, 5), jax.nn.softmax(draw.normal(5, 3), axis=1)


@case(
    "renorm.soft_assignment",
    call=lambda fn, laplacian, *args: fn((laplacian + laplacian.T) / 2, *args),
    wrt=(0, 1, 2, 3),
)
def _(draw):
    return (
        renorm.laplacian(undirected(draw)),
        jax.nn.softmax(draw.normal(5, 2), axis=1),
        jnp.exp(0.1 * draw.normal()),
        jnp.exp(0.1 * draw.normal()),
    )


case("renorm.var_graph", wrt=(0, 1))(correlations)
case("renorm.whitened_graph", call=symmetrised, wrt=(0, 1))(correlations)
case("renorm.partial_correlation", call=symmetrised)(lambda draw: correlations(draw)[:1])


@case(
    "renorm.graph_log_likelihood",
    call=lambda fn, bias, weights, kernel, spikes: fn(
        renorm.GraphParameters(bias, weights, kernel), recording.Raster(spikes, 0.01)
    ),
    wrt=(0, 1, 2),
)
def _(draw):
    return draw.normal(3), draw.normal(2, 3, 3), jnp.exp(draw.normal(2)), draw.spikes(3, 12)


@case(
    "renorm.graph_penalty",
    call=lambda fn, weights, *args: fn(
        renorm.GraphParameters(weights[0, 0], weights, weights[0, 0]), *args
    ),
    wrt=(0, 1, 2),
)
def _(draw):
    return draw.normal(2, 3, 3), jnp.exp(draw.normal()), jnp.exp(draw.normal())


@case(
    "renorm.sum_units",
    call=lambda fn, x: fn(recording.Activity(x, 0.1), np.array([0, 1, 0, -1])).values,
)
def _(draw):
    return (draw.normal(4, 6),)


def parts(found):
    """Its residual, at the end of the search, is rounding alone."""
    return found.sparse, found.low_rank


@case("renorm.latent_var", call=lambda fn, c, b: parts(fn(c, b, 0.05, 0.1)), wrt=())
def _(draw):
    return correlations(draw)


@case("renorm.latent_precision", call=lambda fn, c: parts(fn(c, 0.1, 0.1)), wrt=())
def _(draw):
    return correlations(draw)[:1]


@case("renorm.lagged_correlation", lags=(0, 2))
def _(draw):
    return (draw.normal(3, 12),)
