# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Networks: the microscopic truth
#
# We simulate Brunel's (2000) sparse network of excitatory and inhibitory neurons, look at its
# activity, and hold its rate against a theory and against another simulator. Then a batch of seeds,
# a neuron of our own, and gradients: exact through a network of rates, unbiased through one that
# spikes at random.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfcx

from neurofield import network, plot

SMALL = bool(os.environ.get("NEUROFIELD_SMALL"))

# %% [markdown]
# ## Description
#
# Populations of neurons, each under a drive of its own, and projections between them. Every neuron
# has a tenth of the others as sources, excitatory and inhibitory ones, and Poisson spikes from
# outside, twice as many as would just bring it to threshold. A small network has few inputs, so
# that each must be strong: 0.1 mV times 1000 over their number.

# %%
SIZE, WEIGHT = (1000, 1.25) if SMALL else (2500, 0.5)  # neurons, mV
DURATION, DT = (1.0 if SMALL else 4.0), 1e-4  # seconds
G, ETA = 5.0, 2.0  # inhibition over excitation, drive over threshold
sizes = {"E": 4 * SIZE // 5, "I": SIZE // 5}
weights = {"E": WEIGHT, "I": -G * WEIGHT}

neuron = network.LIF(tau=0.02, threshold=20.0, reset=10.0, refractory=0.002)
drive = network.Poisson(ETA * 20.0 / (WEIGHT * 0.02), weight=WEIGHT)  # Hz, mV
brunel = network.Network(
    [network.Population(name, neuron, size, drive) for name, size in sizes.items()],
    [
        network.Projection(
            pre, post, network.fixed_indegree(sizes[pre] // 10, weights[pre]), delay=1.5e-3
        )
        for pre in sizes
        for post in sizes
    ],
)

# %% [markdown]
# ## Simulation
#
# `realise` draws the weights once; `simulate` would draw new ones for every key. What comes back is
# a `Raster`, as from a recording, with its `Statistics` by population.

# %%
brunel = network.realise(jax.random.key(0), brunel)
sim = network.simulate(jax.random.key(1), brunel, DURATION, DT, warm_up=0.2, intervals=True)
enough = sim.intervals.count > 2
for name, rate, error in zip("EI", sim.statistics.rate, sim.statistics.rate_error, strict=True):
    print(f"{name}: {rate:.1f} ± {error:.1f} Hz")
print(f"coefficient of variation of the intervals: {sim.intervals.cv[enough].mean():.2f}")

# %%
figure, axes = plt.subplots(3, 1, figsize=(8, 9), height_ratios=[2, 1, 1.3], layout="constrained")
plot.raster(sim.raster, axes[0], duration=0.2)
plot.population_rate(sim.raster, axes[1], duration=0.2)
plot.spectrum(sim.statistics, axes[2])

# %% [markdown]
# ## Theory
#
# If every neuron saw white noise, independent of the others', the rate would solve Siegert's
# formula with the mean and the variance that the rate itself makes. That comes within some per
# cent, and in a large network with weak synapses within 1.5 (37.9 against 37.4 Hz with 12,500
# neurons). Of the rest it says nothing: independent neurons would have the flat spectrum rate / N,
# and ours lies far above it, since they share their inputs and swing together.


# %%
def siegert(mean, sd):
    """Rate in hertz of a LIF neuron whose free voltage has this mean and noise (Siegert 1951)."""
    low, high = (10.0 - mean) / sd, (20.0 - mean) / sd
    area, _ = quad(lambda x: erfcx(-x), low, high)  # exp(x^2) (1 + erf x)
    return 1 / (0.002 + 0.02 * np.sqrt(np.pi) * area)


def input_of(rate):
    count, inhibitory = sizes["E"] // 10, sizes["I"] // 10
    outside = ETA * 20.0 / (WEIGHT * 0.02)
    mean = 0.02 * WEIGHT * (outside + (count - G * inhibitory) * rate)
    variance = 0.02 * WEIGHT**2 * (outside + (count + G**2 * inhibitory) * rate)
    return mean, np.sqrt(variance)


predicted = brentq(lambda rate: siegert(*input_of(rate)) - rate, 1.0, 400.0)
print(f"Siegert {predicted:.1f} Hz, simulated {sim.statistics.rate[0]:.1f} Hz")

# %% [markdown]
# ## A batch of seeds
#
# `vmap` over keys: other noise and other beginnings on the same connections, whose lists of
# synapses are held once.


# %%
def rate_of(key):
    done = network.simulate(key, brunel, DURATION, DT, warm_up=0.2, num_lags=None)
    return jnp.mean(done.raster.spikes[: sizes["E"]].astype(float)) / done.raster.bin_width


rates = jax.jit(jax.vmap(rate_of))(jax.random.split(jax.random.key(2), 8))
rate, rate_error = float(rates.mean()), float(rates.std(ddof=1)) / 8**0.5
print(f"E over eight seeds: {rate:.1f} ± {rate_error:.1f} Hz")

# %% [markdown]
# ## A neuron of one's own
#
# Two pure functions: a start and a step. Here a threshold that jumps up at each spike and comes
# back slowly, so that intervals grow. State fields can be recorded by name.


# %%
class Adaptive(eqx.Module):
    voltage: jax.Array
    threshold: jax.Array


def start(params, key, shape):
    return Adaptive(jnp.zeros(shape), jnp.full(shape, params["base"]))


def step(params, key, state, input, dt):
    voltage = input[0] + (state.voltage - input[0]) * jnp.exp(-dt / params["tau"])
    threshold = state.threshold + (params["base"] - state.threshold) * (dt / params["recovery"])
    spike = (voltage >= threshold).astype(float)
    state = Adaptive(voltage * (1 - spike), threshold + params["increment"] * spike)
    return state, network.Output(spike)


params = {"tau": 0.02, "base": 15.0, "recovery": 0.1, "increment": 2.0}
own = network.Custom(params, start, step, kind="spike")
alone = network.Network([network.Population("own", own, 1, network.Constant(30.0))])
one = network.simulate(
    jax.random.key(0), alone, 0.3, DT, bin_width=DT, traces=["voltage", "threshold"], num_lags=None
)
gaps = 1e3 * DT * np.diff(np.flatnonzero(np.asarray(one.raster.spikes[0])))
print("intervals (ms):", gaps.round(1))
plot.traces(
    np.concatenate([one.traces["own"]["voltage"], one.traces["own"]["threshold"]]),
    DT,
    labels=["voltage", "threshold"],
    quantity="mV",
)

# %% [markdown]
# ## Gradients
#
# Through a network of rates the gradient is exact, by reverse mode with checkpoints. We hold it
# against a finite difference along a random direction, in float64.


# %%
def spread(matrix):
    """Variance at the end of the activity that the weights `[post, pre]` make."""
    unit = network.Rate(tau=0.01, gain=1.5)
    net = network.Network(
        [network.Population("x", unit, 40)],
        [network.Projection("x", "x", network.from_matrix(matrix))],
    )
    done = network.simulate(
        jax.random.key(0), net, 0.1, 1e-3, bin_width=5e-3, traces=["output"], num_lags=None
    )
    return jnp.var(done.traces["x"]["output"][:, -1])


with jax.enable_x64():
    rng = np.random.default_rng(0)
    matrix, direction = jnp.asarray(rng.normal(0, 40**-0.5, (2, 40, 40)))
    exact = jnp.sum(jax.jit(jax.grad(spread))(matrix) * direction)
    ends = [jax.jit(spread)(matrix + h * direction) for h in (1e-5, -1e-5)]
    finite = (ends[0] - ends[1]) / 2e-5
    print(f"gradient {exact:.8f}, finite difference {finite:.8f}")
    assert abs(exact - finite) < 1e-6 * abs(exact)

# %% [markdown]
# A spike has no derivative, and JAX's own would be zero, silently. Here it is an error. Where
# spikes are drawn from a probability, the mean of what they do is smooth all the same, and
# `score_gradient` estimates its gradient without bias, with a standard error. Simulating at two
# currents gives the same slope.


# %%
def noisy(current):
    unit = network.EscapeLIF(tau=0.02, threshold=15.0, width=3.0, rate=50.0)
    return network.Network(
        [network.Population("x", unit, 10, network.Constant(current))],
        [network.Projection("x", "x", network.all_to_all(-0.5), delay=2e-3)],
    )


def loss(done):
    """Each bin's part of the mean rate over 50 ms."""
    return jnp.mean(done.traces["x"]["output"], axis=0) / 0.05


options = {"bin_width": 1e-3, "traces": ["output"]}
current, half = jnp.asarray(14.0), 1.0


def simulated(key, current):
    done = network.simulate(key, noisy(current), 0.05, 1e-3, num_lags=None, **options)
    return jnp.sum(loss(done))


try:
    jax.grad(simulated, argnums=1)(jax.random.key(0), current)
except TypeError as error:
    print("TypeError:", error)


@jax.jit
def estimate(key, current):
    return network.score_gradient(
        key, loss, current, 0.05, 1e-3, network_fn=noisy, num_samples=300, **options
    )


score = estimate(jax.random.key(3), current)
keys = jax.random.split(jax.random.key(4), 2000)
currents = jnp.stack([current + half, current - half])
high, low = jax.jit(jax.vmap(jax.vmap(simulated, (0, None)), (None, 0)))(keys, currents)
slopes = (high - low) / (2 * half)  # the same random numbers at both ends
slope, slope_error = float(slopes.mean()), float(slopes.std()) / len(keys) ** 0.5
print(f"score gradient {score.gradient:.2f} ± {score.error:.2f} Hz/mV")
print(f"finite difference {slope:.2f} ± {slope_error:.2f} Hz/mV")
assert abs(score.gradient - slope) < 4 * np.hypot(score.error, slope_error)

# %% [markdown]
# ## The headline
#
# NEST 3.10 has, over four networks drawn anew, these rates of the excitatory neurons; one network
# differs from the next by about twice the error of their mean.

# %%
nest, nest_error = (66.91, 0.68) if SMALL else (46.07, 0.23)  # Hz
print(f"{SIZE} neurons: {rate:.1f} ± {rate_error:.1f} Hz; NEST {nest} ± {nest_error} Hz")
assert abs(rate - nest) < 4 * np.sqrt(rate_error**2 + (2 * nest_error) ** 2)
