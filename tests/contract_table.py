"""Every public function, with tiny arguments: what test_contract and test_lowering run over.

An entry is a decorated function that builds the arguments from `draw`, whose seed and dtype the
tests choose; the values must differ with the seed and the shapes must not.
"""

import contract_meanfield as contract_meanfield  # whose entries are made on import
import contract_renorm as contract_renorm
import equinox as eqx
import jax
import jax.numpy as jnp
from contract_case import CASES as CASES
from contract_case import case

from neurofield import fit, markov, network
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
    "markov.attractor_curve",
    "markov.bifurcation_point",
    "markov.bistable",
    "markov.cloud_distance",
    "markov.continuation",
    "markov.cycle_continuation",
    "markov.default_parameters",
    "markov.fisher_information",
    "markov.fit",
    "markov.free_values",
    "markov.from_config",
    "markov.identifiability",
    "markov.limit_cycle",
    "markov.peak_diagram",
    "markov.peak_differences",
    "markov.posterior_draws",
    "markov.read_config",
    "markov.ready_configs",
    "markov.response",
    "markov.stability",
    "markov.steady",
    "markov.to_network",
    "markov.value_and_jacobian",
    "markov.voltage_grid",
    "meanfield.check",
    "meanfield.compare_features",
    "meanfield.diagnose",
    "meanfield.fit",
    "meanfield.from_config",
    "meanfield.lyapunov_exponent",  # of samples that are too large for this table
    "meanfield.matched_rate",
    "meanfield.measure_observables",
    "meanfield.pair_covariance",
    "meanfield.posterior_draws",
    "meanfield.read_config",
    "meanfield.predict_observables",
    "meanfield.ready_configs",
    "meanfield.sample_paths",
    "meanfield.stability",
    "network.check_network",
    "network.delay_steps",
    "network.dtype_of",
    "network.is_traced",
    "network.resolve_channel",
    "network.check_dale",
    "network.cluster_labels",
    "network.downscale",
    "network.from_config",
    "network.from_edges",
    "network.grid_positions",
    "network.read_config",
    "network.ready_configs",
    "recording.bin_covariate",
    "recording.bin_spikes",
    "recording.clock_time",
    "recording.example",
    "recording.raster_bytes",
    "recording.read",
    "recording.read_graph",
    "recording.to_xarray",
    "renorm.coarse_grain",
    "renorm.communities",
    "renorm.diffusion_scales",
    "renorm.fading_correlation",
    "renorm.fiedler_tree",
    "renorm.infer_communities",
    "renorm.infer_graph",
    "renorm.null_graph",
    "renorm.phenomenological_flow",
    "renorm.rg_flow",
    "renorm.stability",
    "renorm.subsampling",
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


# --- network --------------------------------------------------------------------------------------


@case("network.all_to_all")
@case("network.low_rank[factors]", call=lambda fn, x: fn(x[:, None], x[:, None], x[0] ** 2))
def _(draw):
    return (draw.normal(5),)


@case("network.gaussian", wrt=(0, 1))
def _(draw):
    return draw.normal(), jnp.exp(draw.normal())


@case("network.annealed", wrt=(0, 1))
@case("network.erdos_renyi", wrt=(0, 1))
@case(
    "network.clustered",
    call=lambda fn, p, w: fn(2, p / 4, w, ratio=2 * p, weight_factor=p),
    wrt=(0, 1),
)
@case("network.spatial", call=lambda fn, p, w: fn(p, p / 5, w), wrt=(0, 1))
@case("network.fixed_indegree", call=lambda fn, _, w: fn(3, w), wrt=(1,))
def _(draw):
    return jax.nn.sigmoid(draw.normal()), draw.normal()


@case("network.from_matrix")
@case("network.block_statistics[matrix]")
def _(draw):
    return (draw.normal(6, 5),)


@case("network.block_statistics[ensemble]", num_post=4, num_pre=5)
def _(draw):
    return (network.erdos_renyi(jax.nn.sigmoid(draw.normal()), draw.normal()),)


def rates(draw):
    """Two populations of rate units, with shared noise."""
    neuron = network.Rate(gain=jnp.exp(draw.normal()), tau=0.05, adaptation=0.5)
    noise = network.OrnsteinUhlenbeck(jnp.asarray(0.3, draw.dtype), jnp.asarray(0.1, draw.dtype))
    populations = [
        network.Population("E", neuron, 4, network.Constant(draw.normal())),
        network.Population("I", neuron, 2, noise),
    ]
    rule = network.gaussian(draw.normal(), jnp.exp(draw.normal()))
    projections = [
        network.Projection("E", "I", rule),
        network.Projection("E", "E", rule, kernel=network.Exponential(jnp.exp(draw.normal()))),
    ]
    return cast(network.Network(populations, projections), draw)


def cast(tree, draw):
    """Defaults in the dtype of the rest."""
    return jax.tree.map(lambda x: x.astype(draw.dtype) if eqx.is_inexact_array(x) else x, tree)


@case("network.realise", call=lambda fn, key, net: fn(key, net), wrt=(1,))
@case(
    "network.simulate[rates]",
    call=lambda fn, key, net: fn(
        key, net, 0.12, 0.01, bin_width=0.02, traces=("output",), num_lags=2
    ),
    wrt=(1,),
    slow=True,
)
def _(draw):
    return draw.key(), rates(draw)


def spiking(draw, neuron):
    weight = jnp.exp(draw.normal())
    populations = [
        network.Population("E", neuron, 6, network.Constant(24.0)),
        network.Population("I", neuron, 3),
    ]
    rule = network.erdos_renyi(0.5, weight)
    projections = [
        network.Projection("E", "I", rule, delay=2e-3),
        network.Projection("E", "E", rule, kernel=network.Exponential(0.004 * weight)),
    ]
    return cast(network.Network(populations, projections), draw)


@case(
    "network.simulate[spikes]",
    call=lambda fn, key, net: fn(key, net, 0.04, 1e-3, intervals=True, num_lags=None),
    wrt=(),
)
def _(draw):
    return draw.key(), spiking(draw, network.LIF())


@case(
    "network.poisson_null",
    call=lambda fn, key, rates, m: fn(key, 0.1, rates, 0.02, modulation=m),
    wrt=(),
)
def _(draw):
    return draw.key(), 20 * jnp.exp(draw.normal(3)), jnp.exp(draw.normal(5))


@case(
    "network.log_normal_modulation",
    call=lambda fn, key, sd, tau: fn(key, 0.1, 0.02, sd, tau),
    wrt=(1, 2),
)
def _(draw):
    return draw.key(), jnp.exp(draw.normal()), jnp.exp(draw.normal())


@case(
    "network.branching_process",
    call=lambda fn, key, m, h: fn(key, 0.04, m, h, 0.004, num_units=5, num_observed=2, warm_up=3),
    wrt=(),
)
def _(draw):
    return draw.key(), jax.nn.sigmoid(draw.normal()), jnp.exp(draw.normal())


@case(
    "network.clustered_lif",
    call=lambda fn, key: fn(
        key, 0.01, num_excitatory=8, num_inhibitory=3, num_clusters=2, warm_up=0.0
    ),
    wrt=(),
    slow=True,
)
def _(draw):
    return (draw.key(),)


def spikes_per_bin(sim):
    return jnp.sum(sim.traces["I"]["output"], axis=0)


@case(
    "network.score_gradient",
    call=lambda fn, key, net: fn(
        key,
        spikes_per_bin,
        net.populations[0].neuron.threshold,
        0.01,
        1e-3,
        network_fn=lambda x: with_threshold(net, x),
        num_samples=3,
        traces=("output",),
    ),
    wrt=(),
    slow=True,
)
def _(draw):
    return draw.key(), spiking(draw, network.EscapeLIF())


def with_threshold(net, threshold):
    same = [threshold] * len(net.populations)
    return eqx.tree_at(lambda n: [p.neuron.threshold for p in n.populations], net, same)


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


# --- markov ---------------------------------------------------------------------------------------


def time_courses(draw):
    """Rates `[population, time]` in hertz."""
    return (20 * jnp.exp(draw.normal(2, 40, scale=0.5)),)


for name, keywords in {
    "binned_rate": {"bin_width": 4e-3},
    "mean_rate": {},
    "coefficient_of_variation": {},
    "synchrony_index": {"half_window": 2e-3},
    "spectrum": {"segment_length": 20},
    "band_power": {"low": 50.0, "high": 300.0, "segment_length": 20},
    "centre_frequency": {"low": 50.0, "high": 300.0, "segment_length": 20},
    "volley": {"onset": 5e-3, "window": 2e-2},
    "crossing_time": {"count": 0.01},
}.items():
    case(f"markov.{name}", save_dt=1e-3, **keywords)(time_courses)


@case("markov.dwell_times", bin_width=0.02, window=0.1, threshold=25.0, wrt=())
def _(draw):
    return time_courses(draw)


def factors(draw):
    return (1 + jnp.tanh(draw.normal(2, 2)) / 20,)


def scaled(factor):
    """A network whose charges are scaled, in the factor's dtype."""
    params = jax.tree.map(lambda x: x.astype(factor.dtype), markov.default_parameters("hom"))
    return eqx.tree_at(lambda p: p.charge, params, params.charge * factor)


def of_scaled(fn, factor):
    return fn(scaled(factor))


def rate_of_scaled(fn, factor):
    return fn(scaled(factor)).rate


@case(
    "markov.with_values",
    call=lambda fn, drive: fn(scaled(jnp.ones((2, 2), drive.dtype)), {"drive": drive}).drive,
)
def _(draw):
    return (7000 * jnp.exp(draw.normal()),)


MAP = {
    **{"backend": "map", "closure": "published", "voltage_bin": 20.0, "dt": 2.5e-4},
    **{"duration": 2e-3, "save_dt": 1e-3, "initial": "uniform", "throw": False},
}
case("markov.settle", call=of_scaled, wrt=(), **MAP)(factors)
case("markov.solve[map]", call=rate_of_scaled, slow=True, **MAP)(factors)
# An adaptive integration agrees with finite differences as far as its tolerance.
case(
    "markov.solve[ode]",
    call=rate_of_scaled,
    slow=True,
    **{"duration": 4e-3, "save_dt": 2e-3, "initial": "uniform", "closure": "published"},
    **{"voltage_bin": 20.0, "rtol": 1e-9, "atol": 1e-12, "throw": False},
)(factors)
case(
    "markov.equilibrium",
    call=rate_of_scaled,
    slow=True,
    **{"closure": "published", "voltage_bin": 20.0, "throw": False},
)(factors)


def of_solution(fn, factor, rate, pending, voltage):
    """On a solution that no solve made."""
    params = scaled(factor)
    parts = {"params": params, "rate": rate, "mean": pending, "variance": pending / 2}
    parts |= {"voltage": voltage, "occupancy": None, "refractory": None, "final": None}
    parts |= {"time": 1e-3 * jnp.arange(1, 41, dtype=rate.dtype), "save_dt": 1e-3, "stats": {}}
    parts |= {"grid": markov.voltage_grid(params, 50.0, -50.0), "backend": "ode"}
    return fn(markov.Solution(**parts, closure="published", result=markov.RESULTS.successful))


@case("markov.statistics", call=of_solution, wrt=(1,), num_lags=2, segment_length=10)
@case("markov.field_potential", call=of_solution, wrt=(0, 2, 3))
def _(draw):
    pending = jnp.exp(draw.normal(2, 2, 40))
    return *factors(draw), *time_courses(draw), pending, draw.normal(2, 40)
