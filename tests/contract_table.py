"""Every public function, with tiny arguments: what test_contract and test_lowering run over.

An entry is a decorated function that builds the arguments from `draw`, whose seed and dtype the
tests choose; the values must differ with the seed and the shapes must not.
"""

import jax
import jax.numpy as jnp
from contract_case import CASES as CASES
from contract_case import case

from neurofield import fit
from neurofield.lattice import Action, Kinetic
from neurofield.recording import Raster

# Functions that are not for tracing: they read files, look at values, have only static arguments,
# or fit with progress.
HOST = {
    "fit.is_successful",
    "fit.least_squares",
    "fit.load",
    "fit.minimise",
    "fit.read_header",
    "fit.save",
    "fit.standard_errors",
    "lattice.fit",
    "lattice.goodness_of_fit",
    "lattice.raised_cosine",
    "lattice.score",
    "recording.bin_covariate",
    "recording.bin_spikes",
    "recording.clock_time",
    "recording.example",
    "recording.raster_bytes",
    "recording.read",
    "recording.to_xarray",
    "statistics.avalanches",
    "statistics.fit_power_law",
    "statistics.frequencies",
    "statistics.split_blocks",
    "statistics.to_xarray",
}


# --- recording ------------------------------------------------------------------------------------


@case("recording.select", units=(2, 0), bins=slice(1, 5), wrt=())
def _(draw):
    return (Raster(draw.spikes(2, 3, 6), 0.02),)


# --- fit ------------------------------------------------------------------------------------------

BOUNDED = {
    "rate": fit.Positive(),
    "mix": fit.Simplex(),
    "gain": fit.Shared("gain", fit.Interval(-1, 2)),
}
LINEAR = {"pairs": fit.SymmetricHollow(), "offset": fit.Real()}


def bounded(draw):
    weights = jnp.exp(draw.normal(4))
    return {
        "rate": jnp.exp(draw.normal(3)),
        "mix": weights / jnp.sum(weights),
        "gain": jnp.tanh(draw.normal(2)) / 2,
    }


def linear(draw):
    pairs = draw.normal(3, 3)
    pairs = (pairs + pairs.T) * (1 - jnp.eye(3, dtype=draw.dtype))
    return {"pairs": pairs, "offset": draw.normal()}


@case("fit.unconstrain", call=lambda fn, params: fn(BOUNDED | LINEAR, params))
def _(draw):
    return (bounded(draw) | linear(draw),)


@case("fit.constrain", call=lambda fn, free, params: fn(BOUNDED | LINEAR, free, params))
def _(draw):
    params = bounded(draw) | linear(draw)
    return fit.unconstrain(BOUNDED | LINEAR, params), params


@case("fit.log_det_jacobian", call=lambda fn, free, params: fn(BOUNDED, free, params))
def _(draw):
    params = bounded(draw)
    return fit.unconstrain(BOUNDED, params), params


# --- statistics -----------------------------------------------------------------------------------


@case("statistics.mean_error", num_replica_axes=1)
def _(draw):
    return (draw.normal(2, 3, 40),)


# Its search for the window, lag by lag, has no reverse mode.
@case("statistics.mean_error[mask]", num_replica_axes=1, wrt=())
def _(draw):
    return draw.normal(2, 3, 40), jnp.arange(120).reshape(3, 40) % 30 < 25


@case("statistics.derived_error", call=lambda fn, series: fn(lambda m: m["a"] / m["b"], series))
def _(draw):
    return ({"a": draw.normal(3, 40), "b": 4 + draw.normal(3, 40)},)


@case("statistics.blocking_error", block_size=8)
def _(draw):
    return (draw.normal(3, 40),)


@case("statistics.jackknife", call=lambda fn, samples: fn(lambda x: jnp.mean(x) ** 3, samples))
def _(draw):
    return (draw.normal(6, 4),)


@case(
    "statistics.stationary_bootstrap",
    call=lambda fn, key, series: fn(key, lambda x: jnp.mean(x) ** 2, series, 4.0),
    num_samples=8,
    wrt=(1,),
)
def _(draw):
    return draw.key(), draw.normal(2, 30)


# Ranks do not move under small changes.
@case("statistics.split_rhat", wrt=())
@case("statistics.ess[bulk]", wrt=())
@case("statistics.ess[mean]", rank_normalise=False)
def _(draw):
    return (draw.normal(2, 4, 40),)


@case("statistics.covariance")
@case("statistics.lagged_covariance", num_lags=3)
@case("statistics.spectrum", bin_width=0.02, segment_length=8)
def _(draw):
    return (draw.normal(2, 3, 32),)


@case("statistics.measure", num_lags=2, segment_length=8, wrt=())
def _(draw):
    return (Raster(draw.spikes(2, 3, 64), 0.02),)


@case("statistics.kernel_averages", wrt=())
@case("statistics.quantile_spectra", num_levels=5, wrt=())
def _(draw):
    return (Raster(draw.spikes(2, 3, 32), 0.02),)


@case("statistics.surrogates[shift]", wrt=())
@case("statistics.surrogates[jitter]", method="jitter", window=4, wrt=())
@case("statistics.ergodicity", num_null=2, wrt=(), slow=True)
def _(draw):
    return draw.key(), Raster(draw.spikes(4, 3, 16), 0.02)


@case("statistics.wasserstein", wrt=(0, 1))
def _(draw):
    return draw.normal(2, 9), draw.normal(2, 9)


@case("statistics.borel_log_prob", wrt=(1,))
def _(draw):
    return jnp.arange(1, 5, dtype=draw.dtype), jax.nn.sigmoid(draw.normal(4))


@case("statistics.branching_ratio", num_lags=4, num_blocks=4)
def _(draw):
    return (jnp.cumsum(draw.normal(2, 64), axis=-1) / 8,)


# --- lattice --------------------------------------------------------------------------------------


def action(draw, **change):
    space = draw.normal(3, 3, scale=0.3)
    space = (space + space.T) * (1 - jnp.eye(3, dtype=draw.dtype))
    kinds = {"field": draw.normal(3), "space": space, "history": draw.normal(1, 3, scale=0.5)}
    return Action(**kinds | change)


def directed(draw):
    transfer = draw.normal(1, 3, 3, scale=0.3) * (1 - jnp.eye(3, dtype=draw.dtype))[None]
    return action(draw, field=draw.normal(3, 5), transfer=transfer)


def kinetic(draw):
    return Kinetic(draw.normal(3), draw.normal(2, 3, 3, scale=0.3))


@case("lattice.log_weight")
@case("lattice.log_weight[periodic]", boundary="periodic")
@case("lattice.local_field")
@case("lattice.local_field[periodic]", boundary="periodic")
@case("lattice.pseudo_log_likelihood")
def _(draw):
    return directed(draw), draw.spikes(2, 3, 5)


@case(
    "lattice.log_weight[covariates]",
    call=lambda fn, action, spikes, covariates: fn(action, spikes, covariates=covariates),
    wrt=(0, 1, 2),
)
def _(draw):
    # Soft spikes, to which the multilinear polynomial extends.
    driven = action(draw, stimulus=draw.normal(3, 2))
    return driven, draw.normal(3, 5), draw.normal(2, 5)


@case("lattice.to_basis", basis="spin", num_steps=5)
@case("lattice.log_partition", num_steps=5)
@case("lattice.log_partition[periodic]", num_steps=5, boundary="periodic")
def _(draw):
    return (directed(draw),)


@case("lattice.log_partition_rate")
@case("lattice.statistics", bin_width=0.02, num_lags=3)
def _(draw):
    return (action(draw),)


@case("lattice.log_likelihood[action]")
@case("lattice.bin_log_likelihood[action]")
@case("lattice.predict[action]")
def _(draw):
    return action(draw), draw.spikes(2, 3, 6)


@case("lattice.log_likelihood[kinetic]")
@case("lattice.bin_log_likelihood[kinetic]")
@case("lattice.predict[kinetic]")
def _(draw):
    return kinetic(draw), draw.spikes(2, 3, 6)


@case("lattice.log_likelihood[mask]", call=lambda f, k, x, mask: f(k, x, mask=mask))
def _(draw):
    return kinetic(draw), draw.spikes(3, 9), jnp.arange(9) != 4
