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
# # The Markov reduction: from a spiking network to differential equations
#
# A network of 300 excitatory and 100 inhibitory neurons has some thousand numbers that jump at
# random. Its populations have far fewer that move smoothly: which share of the neurons is at which
# voltage, and the mean and variance of the spikes that pend at their synapses. We take one set of
# microscopic parameters to both, compare them, and use what only the equations have: cycles,
# bifurcations and gradients. The method is that of Chang, Li, Wang, Tao & Xiao (2025), with a
# closure of this project's own.

# %%
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from neurofield import markov, network, plot
from neurofield.statistics import Statistics

SMALL = bool(os.environ.get("NEUROFIELD_SMALL"))

# %% [markdown]
# ## Parameters, and the network
#
# Sizes, probabilities, charges (mV), time constants (s) and drive (mV/s): `default_parameters`
# has the published regimes. `gamma` fires in volleys, `hom` and `async` do not, `meta` jumps
# between volleys and silence. `to_network` is the network itself; one compiled function simulates
# all of them, and `hom` under other drives, which we shall need for a fit.

# %%
DURATION, SETTLE, SEEDS = (0.8, 0.2, 1) if SMALL else (2.0, 0.3, 4)  # seconds, seconds, networks
BIN = 5e-4  # seconds
regimes = {name: markov.default_parameters(name) for name in ("gamma", "hom", "async")}
DRIVES = (0.7, 0.85, 1.0)


def driven(params, factor):
    more = (factor * params.drive, factor * params.drive_variance)
    return eqx.tree_at(lambda p: (p.drive, p.drive_variance), params, more)


cases = dict(regimes)
if not SMALL:
    cases |= {f"hom x {x}": driven(regimes["hom"], x) for x in DRIVES}
sizes = regimes["gamma"].size


def stacked(params):
    return jax.tree.map(lambda *x: jnp.stack(x), *params)


@jax.jit
@jax.vmap
def spiking(params, key):
    params = eqx.tree_at(lambda p: p.size, params, sizes)  # whole numbers, known to the compiler
    net = markov.to_network(params)
    return network.simulate(
        key, net, SETTLE + DURATION, dt=1e-4, bin_width=BIN, num_lags=None
    ).raster


every = [params for params in cases.values() for _ in range(SEEDS)]
rasters = spiking(stacked(every), jax.random.split(jax.random.key(0), len(every)))
counts = np.asarray(rasters.spikes)[..., round(SETTLE / BIN) :]
counts = np.stack([counts[:, :300].mean(1), counts[:, 300:].mean(1)], 1)  # [run, population, time]
runs = dict(zip(cases, (counts / BIN).reshape(len(cases), SEEDS, 2, -1), strict=True))


def rates_of(runs):
    """Mean rates of E and I in hertz, and their covariance, from blocks of 0.1 s."""
    blocks = runs.reshape(SEEDS, 2, -1, round(0.1 / BIN)).mean(3)
    blocks = blocks.transpose(1, 0, 2).reshape(2, -1)
    return blocks.mean(1), np.cov(blocks) / blocks.shape[1]


truth = {name: rates_of(found) for name, found in runs.items()}
for name, (rate, covariance) in truth.items():
    error = np.sqrt(np.diag(covariance))
    print(f"{name:12} E {rate[0]:5.1f} ± {error[0]:.1f} Hz, I {rate[1]:5.1f} ± {error[1]:.1f} Hz")

# %%
figure, axes = plt.subplots(2, 1, figsize=(8, 5), height_ratios=[2, 1], layout="constrained")
gamma_raster = jax.tree.map(lambda x: x[0], rasters)
plot.raster(gamma_raster, axes[0], duration=0.3)
plot.population_rate(gamma_raster, axes[1], duration=0.3)

# %% [markdown]
# ## The differential equations
#
# `solve` gives the rates of the same parameters, without noise. It must say how fluctuations of
# synaptic input act on voltages. The published closure, here in the published map from one step of
# 0.1 ms to the next, takes them for white noise of a correlation time of 1 ms, and misses the E
# rate of `hom` and `async` by 25 to 80 %. The closure "coloured" keeps how fluctuation and voltage
# go together; it is the default, with differential equations.

# %%
SOLVED = 0.5 if SMALL else 1.5  # seconds
published = {"backend": "map", "closure": "published", "voltage_bin": 4.0}  # mV
coloured = {"backend": "ode", "closure": "coloured", "voltage_bin": 4.0 if SMALL else 1.0}


def solved(options):
    solve = jax.vmap(lambda params: markov.solve(params, SOLVED, save_dt=BIN, **options))
    return jax.jit(solve)(stacked(list(regimes.values())))


courses = {"published": solved(published), "coloured": solved(coloured)}
model = {name: np.asarray(markov.mean_rate(found, discard=0.2)) for name, found in courses.items()}
print("E / I in Hz    network        published      coloured      E off by")
for i, name in enumerate(regimes):
    rows = [truth[name][0], model["published"][i], model["coloured"][i]]
    text = "".join(f"{e:6.1f} / {i:4.1f}  " for e, i in rows)
    off = [f"{100 * (row[0] / rows[0][0] - 1):+.0f} %" for row in rows[1:]]
    print(f"{name:12}{text} {off[0]}, {off[1]}")

# %%
figure, ax = plt.subplots(figsize=(8, 2.5), layout="constrained")
first = courses["coloured"].rate[0, 0]
ax.plot(BIN * np.arange(len(first)), first, label="equations")
ax.plot(
    BIN * np.arange(len(first)),
    np.asarray(gamma_raster.spikes)[:300, : len(first)].mean(0) / BIN,
    lw=0.6,
    label="network",
)
ax.set(xlim=(0, 0.2), xlabel="time (s)", ylabel="E rate (Hz)")
ax.legend(frameon=False)
# %% [markdown]
# ## The attractor
#
# Without noise, `gamma` is a limit cycle: a closed curve, here in the space of the mean pending
# excitatory and inhibitory spikes of an E neuron and the E rate. `limit_cycle` finds it by
# Newton's method, with its period and its Floquet multipliers (all but one within the unit circle:
# stable). The network's pending spikes follow from its own volleys. Its cloud lies about the
# curve, and `cloud_distance` says how far, in units of the curve's extent, once noise is averaged
# out at each phase.

# %%
gamma = regimes["gamma"]
COARSE = {"closure": "published" if SMALL else "coloured", "voltage_bin": 10.0 if SMALL else 4.0}
find = jax.jit(
    lambda p: markov.limit_cycle(p, num_steps=100 if SMALL else 400, settle=0.2, **COARSE)
)
cycle = find(gamma)
print(
    f"period {1e3 * cycle.period:.2f} ms, {1 / cycle.period:.1f} Hz; E {cycle.mean_rate[0]:.1f} Hz"
)
print("moduli of the multipliers:", np.abs(cycle.multipliers[:3]).round(3))


def pending(rate, source):
    """Mean pending spikes of an E neuron, from the source's rates in bins."""
    tau, reached = float(gamma.tau[0, source]), float(gamma.probability[0, source])
    keep = np.exp(-BIN / tau)
    found = np.zeros(len(rate) + 1)
    for k, x in enumerate(rate * float(sizes[source])):
        found[k + 1] = found[k] * keep + reached * tau * (1 - keep) * x
    return (found[1:] + found[:-1]) / 2  # at the middles of bins


cloud = np.concatenate(
    [
        np.stack([pending(run[0], 0), pending(run[1], 1), run[0]])[:, round(0.1 / BIN) :]
        for run in runs["gamma"]
    ],
    axis=1,
)
curve = markov.attractor_curve(cycle)
apart = markov.cloud_distance(curve, cloud)
print(f"the cycle is {apart.distance:.3f} of its extent away from the network's mean course")

# %%
figure, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
ax.plot(*cloud[:2], lw=0.2, color="0.7", zorder=0)
plot.attractor(cycle, ax)
# %% [markdown]
# ## Finite size
#
# The back end `markov` moves whole numbers of neurons by chance: the equations' noise of finite
# size. In `meta` silence and volleys are both stable, and noise takes the network from one to the
# other. `dwell_times` counts how long it stays, in windows of 60 ms.

# %%
meta = markov.default_parameters("meta")
CHAIN = {"voltage_bin": 4.0, "dt": 2e-4} if SMALL else {"voltage_bin": 2.0, "dt": 1e-4}
LONG, CHAINS = (1.4, 2) if SMALL else (4.2, 8)


@jax.jit
@jax.vmap
def jumping(key):
    return markov.solve(meta, LONG, backend="markov", closure="published", key=key, **CHAIN)


chains = jumping(jax.random.split(jax.random.key(1), CHAINS))
dwell = markov.dwell_times(chains, transient=0.2, pool=True)
print(f"{100 * dwell.fraction:.0f} ± {100 * dwell.fraction_error:.0f} % of the windows burst")
print(f"bursts last {1e3 * dwell.burst:.0f} ± {1e3 * dwell.burst_error:.0f} ms")
print(f"silences last {1e3 * dwell.quiet:.0f} ± {1e3 * dwell.quiet_error:.0f} ms")

# %%
figure, ax = plt.subplots(figsize=(8, 2), layout="constrained")
ax.plot(chains.time[0], chains.rate[0, 0], lw=0.6)
ax.set(xlabel="time (s)", ylabel="E rate (Hz)")

# %% [markdown]
# ## Bifurcations
#
# Between `fast`, `gamma` and `meta` only the probability of the synapse onto E from I differs.
# Along it, `continuation` follows the equilibrium, stable or not, and finds the Hopf points between
# which the network oscillates. `peak_diagram` shows what the cycle does there: where the heights of
# successive volleys begin to differ, its period has doubled.


# %%
def inhibited(p):
    return eqx.tree_at(lambda q: q.probability, gamma, gamma.probability.at[0, 1].set(p))


span, step = ((0.5, 0.58), 0.5) if SMALL else ((0.45, 1.02), 0.1)
branch = markov.continuation(inhibited, span, max_step=step, **COARSE)
for point in branch.points:
    print(
        f"{point.kind} at {point.parameter:.3f}: {point.frequency:.1f} Hz, E {point.rate[0]:.1f} Hz"
    )
peaks = markov.peak_diagram(
    inhibited,
    np.array([0.7, 0.84]) if SMALL else np.linspace(0.6, 0.94, 18),
    0.5 if SMALL else 1.5,
    backend="map",
    closure="published",
    voltage_bin=4.0,
    **({"dt": 2e-4, "save_dt": 2e-4} if SMALL else {}),
)
for p, difference in zip(peaks.value, peaks.mean_difference / 1e3, strict=True):
    print(f"p = {p:.2f}: successive volleys differ by {difference:.0f} spikes/ms at their peaks")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
name = "probability onto E from I"
axes[0].plot(0.7, cycle.mean_rate[0], "s", color="C3", label="cycle")
plot.branch(branch, axes[0], parameter=name)
plot.peak_diagram(peaks, axes[1], parameter=name)

# %% [markdown]
# ## Gradients: what rates can tell, and a fit
#
# The equations are differentiable in every parameter. Fisher's information says, before any fit,
# what the E and I rates of `hom` under three drives would tell of three numbers: the charges (mV)
# of excitatory spikes onto E and onto I, and the drive (mV/s). Its eigenvectors are combinations of
# them, and one over the root of an eigenvalue is the error along each, relative to the numbers.

# %%
hom = regimes["hom"]
if SMALL:  # the model's own rates, with so much noise that coarse bins and steps resolve it
    hom = eqx.tree_at(lambda p: p.drive_variance, hom, 5 * hom.drive_variance)
    options = {"backend": "map", "closure": "published", "voltage_bin": 10.0, "dt": 5e-4}
    own = jax.jit(lambda p: markov.solve(p, 0.3, save_dt=0.1, **options).rate[:, 1:].mean(1))
    rates = [np.asarray(own(driven(hom, x))) for x in DRIVES]
    measured = [(rate, np.zeros((2, 2))) for rate in rates]
else:
    options = {"closure": "coloured", "voltage_bin": 2.0}
    measured = [truth[f"hom x {x}"] for x in DRIVES]
conditions = [
    markov.steady(
        Statistics(jnp.asarray(rate), BIN),
        drive,
        duration=0.3,
        discard=0.1,
        # of the measurement, and of the closure, which we trust to two per cent
        rate_covariance=found + np.diag((0.02 * rate) ** 2),
    )
    for drive, (rate, found) in zip(DRIVES, measured, strict=True)
]
free = ["charge[E,E]", "charge[I,E]", "drive"]
information = markov.fisher_information(hom, conditions, free=free, **options)
directions = markov.identifiability(information)
print("error        " + "  ".join(free))
for value, vector in zip(directions.information, directions.vectors.T, strict=True):
    print(f"{100 * value**-0.5:6.2f} %   ", np.asarray(vector).round(2))

# %% [markdown]
# With the drive known, the two charges follow from the rates. We begin 10 % off and let `fit` find
# them, with standard errors.

# %%
start = eqx.tree_at(lambda p: p.charge, hom, hom.charge * jnp.array([[1.1, 1], [1, 1]]))
fit = markov.fit(start, conditions, free=free[:2], rtol=1e-3, atol=1e-3, **options)
true, found, error = (np.asarray(p.charge[:, 0]) for p in (hom, fit.value, fit.error))
for target, *numbers in zip("EI", found, error, true, strict=True):
    print("charge onto {} from E: {:.2f} ± {:.2f} mV, in truth {:.2f} mV".format(target, *numbers))
print(f"chi-squared {2 * fit.loss:.1f} for {2 * len(DRIVES) - 2} degrees of freedom")
assert np.all(np.abs(found - true) < 4 * error)

# %% [markdown]
# ## The headline
#
# From microscopic parameters alone, the E rate of the asynchronous network `hom` within 5 % of the
# spiking network's, which itself is known within its standard error.

# %%
index = list(regimes).index("hom")
rate, rate_error = truth["hom"][0][0], np.sqrt(truth["hom"][1][0, 0])
print(
    f"E in hom: network {rate:.1f} ± {rate_error:.1f} Hz, "
    f"coloured {model['coloured'][index, 0]:.1f}, published {model['published'][index, 0]:.1f} Hz"
)
assert abs(model["coloured"][index, 0] - rate) < 0.05 * rate + 3 * rate_error
