"""Entries of the contract table for `meanfield`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from contract_case import case

from neurofield import meanfield, network


@case("meanfield.sompolinsky", call=lambda fn, g, s: fn(g, sigma2=s), slow=True)
def _(draw):
    return 1.5 + 0.1 * jnp.tanh(draw.normal()), 0.3 + 0.1 * jnp.tanh(draw.normal())


@case("meanfield.linear", call=lambda fn, g, s: fn(g, sigma2=s))
def _(draw):
    return 0.5 + 0.1 * jnp.tanh(draw.normal()), jnp.exp(draw.normal())


def without_residual(found):
    """Its residual is rounding alone."""
    return eqx.tree_at(lambda x: x.residual, found, jnp.zeros_like(found.mean[0]))


@case(
    "meanfield.escape",
    call=lambda fn, m, v, d, one: without_residual(
        fn(
            *(m, v, 0 * v),
            drive=d,
            **{"tau": 0.02 * one, "threshold": 15 * one, "width": 4 * one, "rate": 50 * one},
        )
    ),
    wrt=(0, 1, 2),
    slow=True,
)
def _(draw):
    one = jnp.ones(1, draw.dtype)
    return -2 * one[None], 5 * jnp.exp(0.1 * draw.normal(1, 1)), 14 + draw.normal(1), one


@case(
    "meanfield.binary",
    call=lambda fn, m, v, d, one: without_residual(
        fn(m, v, 0 * v, drive=d, threshold=one, tau=one, sizes=1e3 * one)
    ),
    wrt=(0, 1, 2),
    slow=True,
)
def _(draw):
    one = jnp.ones(1, draw.dtype)
    return -one[None], jnp.exp(0.1 * draw.normal(1, 1)), 1 + 0.1 * draw.normal(1), one


def transfer_factors(draw):
    return 0.3 * jnp.exp(0.1 * draw.normal(6))


@case(
    "meanfield.participation_ratio",
    call=lambda fn, a, r, g: fn(a, jax.lax.complex(r, -r / 2), g),
)
def _(draw):
    g = 0.5 + 0.1 * jnp.tanh(draw.normal())
    return jnp.exp(draw.normal(6)), transfer_factors(draw), g


@case(
    "meanfield.resolved_covariance",
    call=lambda fn, j, r, a: fn(j, jax.lax.complex(r, -r / 2), a),
)
def _(draw):
    response = 0.5 * jnp.exp(0.1 * draw.normal(2, 4))
    return draw.normal(4, 4, scale=0.2), response, jnp.exp(draw.normal(2, 4))


@case("meanfield.ornstein_uhlenbeck_covariance")
def _(draw):
    return draw.normal(4, 4, scale=0.2), jnp.exp(draw.normal(4))


@case("meanfield.participation_ratio_of")
def _(draw):
    x = draw.normal(4, 4)
    return (x @ x.T,)


LIF = {"tau": 0.02, "threshold": 20.0, "reset": 10.0, "refractory": 2e-3}


def working_point(draw):
    """Mean and standard deviation of the input, mV."""
    return 18 + draw.normal(2), 5 * jnp.exp(0.1 * draw.normal(2))


case("meanfield.siegert", **LIF)(working_point)
case("meanfield.coefficient_of_variation", **LIF)(working_point)


@case(
    "meanfield.lif_transfer_function", call=lambda fn, f, m, s: fn(f, m[0], s[0], **LIF), slow=True
)
def _(draw):
    mean, sd = working_point(draw)
    return jnp.exp(draw.normal(3)) * 20, mean[:1], sd[:1]


@case("meanfield.lif_rates", **LIF, slow=True)
def _(draw):
    weight = jnp.asarray([[1.0, -0.8], [1.2, -0.9]], draw.dtype) * jnp.exp(0.05 * draw.normal(2, 2))
    mean, sd = working_point(draw)
    return weight, 0.1 * jnp.abs(weight), mean, sd**2


def rates_of(gain):
    """A small network of rates, in the gain's dtype."""
    unit = jax.tree.map(lambda x: jnp.asarray(x, gain.dtype), network.Rate("tanh", tau=1.0))
    noise = network.OrnsteinUhlenbeck(0.5 * gain, jnp.ones((), gain.dtype))
    rule = network.gaussian(0.3 * gain, 0.8 * gain)
    return network.Network(
        [network.Population("x", unit, 20, noise)], [network.Projection("x", "x", rule)]
    )


def solved(fn, gain):
    return fn(rates_of(gain), 2.0, 0.1, key=jax.random.key(0), num_paths=16, num_replicas=2).mean


def of_solved(fn, gain, duration=4.0, **changed):
    """On a small stationary solution, of its time averages."""
    options = {"num_paths": 16, "num_replicas": 2, "throw": False, "max_steps": 3}
    options |= {"method": "stationary", "max_lag": 1.0} | changed
    return fn(meanfield.solve(rates_of(gain), duration, 0.1, key=jax.random.key(0), **options))


def near_one(draw):
    return (1 + jnp.tanh(draw.normal()) / 10,)


def lif_pair(fn, factor):
    unit = jax.tree.map(lambda x: jnp.asarray(x, factor.dtype), network.LIF())
    drive = network.Poisson(8000 * factor, 0.1 * factor)
    rule = network.fixed_indegree(10, -0.5 * factor)
    net = network.Network(
        [network.Population("I", unit, 100, drive)], [network.Projection("I", "I", rule)]
    )
    return fn(net).rate


case("meanfield.solve", call=solved, slow=True, method="march")(near_one)
case("meanfield.lif_network", call=lif_pair, slow=True)(near_one)
case("meanfield.statistics", call=of_solved, slow=True, wrt=(), bin_width=0.1)(near_one)
case(
    "meanfield.transfer_function",
    call=lambda fn, gain: of_solved(lambda s: fn(s, jnp.array([0.0, 0.1], gain.dtype)), gain),
    slow=True,
    wrt=(),
)(near_one)
case("meanfield.gain", call=of_solved, slow=True, wrt=())(near_one)
case(
    "meanfield.two_replicas",
    call=lambda fn, gain: of_solved(lambda s: fn(s, 1.0, key=jax.random.key(1)), gain),
    slow=True,
    wrt=(),
    num_paths=16,
    num_replicas=2,
)(near_one)


case("meanfield.path_rates", call=lambda fn, x: fn(paths_of(x)))(
    lambda draw: (draw.normal(2, 3, 12),)
)


def paths_of(output):
    names, fields = ("E", "I"), (("E", "jump"), ("I", "jump"))
    return meanfield.Paths(output, output, names=names, fields=fields, dt=1e-3)


@case("meanfield.path_intervals", call=lambda fn, x: fn(paths_of(x)), wrt=())
@case("meanfield.fano_factor", call=lambda fn, x: fn(paths_of(x), 2e-3), wrt=())
@case(
    "meanfield.interval_density",
    call=lambda fn, x: fn(paths_of(x), jnp.array([0.0, 2e-3, 5e-3], x.dtype)),
    wrt=(),
)
def _(draw):
    return (draw.spikes(2, 3, 12).astype(draw.dtype),)
