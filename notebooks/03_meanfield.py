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
# # One theory for any neuron
#
# A neuron in a large random network receives a sum of many weak inputs: a Gaussian process, whose
# mean and covariance follow from what its likes transmit. `meanfield.solve` finds the means and
# covariances that bring about themselves, by sending Gaussian paths through the very neurons that
# `network.simulate` runs; so it needs nothing of a neuron but that it is causal. Here one network
# is given five kinds of neurons, and the theory is held against simulations of each. Then the drive
# jumps, and the theory follows in time.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from neurofield import meanfield, network, plot

SMALL = bool(os.environ.get("NEUROFIELD_SMALL"))

# %% [markdown]
# ## One network, five neurons
#
# One population inhibits itself through random connections: each of N neurons receives K inputs on
# average, but some more and some fewer. Only the neuron, its drive and the strength of the weights
# differ. Every neuron has private noise.

# %%
SIZE, IN_DEGREE = (500, 50) if SMALL else (2000, 100)
noise = network.OrnsteinUhlenbeck


def of(neuron, drive, weight, **synapse):
    """The network with a kind of neuron; `weight` is the sum of a neuron's input weights."""
    rule = network.erdos_renyi(IN_DEGREE / SIZE, weight / IN_DEGREE)
    return network.Network(
        [network.Population("I", neuron, SIZE, network.Drive(*drive))],
        [network.Projection("I", "I", rule, delay=1.5e-3, **synapse)],
    )


trace = {"kernel": network.Exponential(5e-3), "channel": "current"}
cases = {
    # name: network, time step (s)
    "rate": (
        of(network.Rate("tanh", tau=0.01), [network.Constant(1.0), noise(0.5, 5e-3)], -1.5),
        5e-4,
    ),
    "binary": (
        of(network.Binary(0.0, tau=0.01), [network.Constant(1.0), noise(0.5, 5e-3)], -2.0),
        5e-4,
    ),
    "escape LIF": (
        of(network.EscapeLIF(), [network.Constant(20.0), noise(4.0, 5e-3)], -8.0),
        5e-4,
    ),
    "LIF": (
        of(network.LIF(), [network.Constant(24.0), noise(6.0, 5e-3)], -8.0),
        1e-4 if not SMALL else 5e-4,
    ),
    "QIF": (
        of(network.QIF(), [network.Constant(1.0), noise(2.0, 5e-3)], -5.0, **trace),
        5e-5 if not SMALL else 2.5e-4,
    ),
}

# %% [markdown]
# `meanfield.check` simulates networks drawn at random and lists what differs by more than four
# standard errors. A network of N neurons is not infinite: the difference of order 1 / N that is
# expected stands among the solution's diagnostics.

# %%
DURATION, PATHS, NETWORKS = (0.4, 400, 3) if SMALL else (1.0, 2000, 6)
key = jax.random.key(1)
solutions, checks = {}, {}
for name, (net, dt) in cases.items():
    solutions[name] = meanfield.solve(
        net, DURATION, dt, key=key, num_paths=PATHS, max_lag=DURATION / 8, method="stationary"
    )
    checks[name] = meanfield.check(
        jax.random.key(2), solutions[name], num_networks=NETWORKS, duration=2 * DURATION
    )
    print(f"--- {name} (dt = {dt * 1e3:g} ms)")
    print(checks[name])

# %%
figure, axes = plt.subplots(1, len(cases), figsize=(15, 2.8))
for ax, (name, solution) in zip(axes, solutions.items(), strict=True):
    plot.solution(solution, ax=ax, title=name)

# %% [markdown]
# ## A step of the drive
#
# Nothing above was special to stationary states. The two-time equations are solved in one march
# from the start, without iteration: what was transmitted up to now gives the law of the next input.
# The drive of the escape-noise neurons jumps at 60 ms. Theory: the line with its standard error;
# networks: their population rate, over several networks of the same law.

# %%
DT, END, STEP = 1e-3, 0.12, 0.06
neuron = network.EscapeLIF()
step = network.Function(lambda t: jnp.where(t < STEP, 16.0, 24.0))
stepped = of(neuron, [step, noise(4.0, 5e-3)], -8.0)
# A delay on the coarser grid.
stepped = network.Network(
    stepped.populations,
    [network.Projection("I", "I", stepped.projections[0].connectivity, delay=2e-3)],
)
course = meanfield.solve(stepped, END, DT, key=key, num_paths=800 if SMALL else 4000)

rates = []
for seed in range(6 if SMALL else 20):
    run = network.simulate(jax.random.key(seed), stepped, END, DT, bin_width=DT, num_lags=None)
    rates.append(np.asarray(run.raster.spikes).mean(0) / DT)
rates = np.array(rates)

# %%
figure, ax = plt.subplots(figsize=(6, 3.2))
time = 1e3 * np.asarray(course.time)
for one in rates[:6]:
    ax.plot(time, one, color="0.8", lw=0.5)
ax.plot(time, rates.mean(0), color="0.4", lw=1, label=f"mean of {len(rates)} networks")
mean, error = np.asarray(course.mean[0]), np.asarray(course.mean_error[0])
ax.fill_between(time, mean - error, mean + error, alpha=0.4)
ax.plot(time, mean, lw=1.5, label="theory")
ax.set(xlabel="time (ms)", ylabel="rate (Hz)")
ax.legend(frameon=False)

# %% [markdown]
# Theory and networks agree where each difference, in units of its standard error, is of order one.
# The rates of a network in neighbouring bins depend on each other, so that the squares are averaged
# and not counted.

# %%
spread = rates.std(0, ddof=1) / np.sqrt(len(rates))
z = (mean - rates.mean(0)) / np.hypot(error, spread)
late = time > 5  # before that hardly any neuron fires
square, largest = np.mean(z[late] ** 2), np.max(np.abs(z[late]))
print(f"step response: mean square of z {square:.2f}, largest |z| {largest:.1f}")

relative = {}
for name, found in checks.items():
    place = next(i for i, q in enumerate(found.quantity) if "mean" in q or "rate" in q)
    scale = max(abs(found.simulated[place]), 0.05)
    relative[name] = float((found.predicted[place] - found.simulated[place]) / scale)
print("mean, theory over simulation:", {k: f"{v:+.1%}" for k, v in relative.items()})

# %%
assert square < 4
assert max(abs(v) for v in relative.values()) < (0.08 if SMALL else 0.03)
