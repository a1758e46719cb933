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
# # Quickstart: from a recording to a fitted field theory
#
# We take spikes of 15 neurons of a mouse (thalamic head-direction cells and hippocampal cells),
# put them on a lattice of neurons and time bins, fit four theories to a part of it, and ask which
# of them predicts the rest best. Then we look at one of them as what it is in this library: a
# function that can be differentiated.
#
# Likelihoods of long recordings are sums of many terms, so we switch on float64. The library never
# changes JAX's configuration itself.

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np

from neurofield import lattice, plot, recording, statistics

SMALL = bool(os.environ.get("NEUROFIELD_SMALL"))

# %% [markdown]
# ## The recording
#
# `clock_time` says how wide the bins may be. At 20 ms a quarter of the filled bins hold two spikes
# or more: such bins, read as 0 or 1, are a coarse-graining of the recording. We choose them all the
# same, since it keeps the example fast and published fits use them.

# %%
mouse = recording.example("head_direction")
print(mouse)
print(recording.clock_time(mouse))

# %%
raster = recording.bin_spikes(
    mouse, bin_width=0.02, epochs="wake" if SMALL else None, units=range(0, 15, 3) if SMALL else None
)
print(raster.spikes.shape, raster.spikes.dtype)
plot.raster(raster, duration=10);

# %% [markdown]
# ## Train and test
#
# Blocks of 30 s; one in five is held out. They are spread over the recording, so that slow drifts
# touch both parts alike.

# %%
split = statistics.split_blocks(raster, 30.0, test_fraction=0.2)
print(split.train.spikes.shape, split.test.spikes.shape)

# %% [markdown]
# ## Four theories
#
# - *independent*: each neuron has its own rate;
# - *pairwise*: the static maximum entropy model of rates and correlations at equal times;
# - *lattice*: the same with a coupling of each neuron to its own previous bin;
# - *kinetic*: each neuron given the previous bin of all neurons.
#
# The first three are an `Action`: probabilities proportional to exp(log-weight). The last is a
# `Kinetic` model, with another likelihood. All four are fitted by Newton's method, with a light
# penalty, and come with standard errors.

# %%
models = ("independent", "pairwise", "lattice", "kinetic")
fits = {model: lattice.fit(split.train, model, l2=1.0) for model in models}
for model, fitted in fits.items():
    print(f"{model:12s} {fitted.summary()}")

# %% [markdown]
# ## Which one predicts?
#
# All are scored on the same held-out bins: the first bin of each block has no past and is skipped
# for all of them.

# %%
reference = fits["independent"].value
scores = {
    model: lattice.score(fitted.value, split.test, reference=reference, skip=1)
    for model, fitted in fits.items()
}
print(f"{'model':12s} {'bits per bin':>18s} {'bits per spike':>18s}")
for model, s in scores.items():
    print(
        f"{model:12s} {float(s.bits_per_bin):9.3f} ± {float(s.bits_per_bin_error):.3f}"
        f" {float(s.bits_per_spike):11.3f} ± {float(s.bits_per_spike_error):.3f}"
    )
plot.scores(
    {m: (float(s.bits_per_spike), float(s.bits_per_spike_error)) for m, s in scores.items()},
    unit="bits per spike",
);

# %% [markdown]
# ## Gradients
#
# A model is a pytree, and its likelihood a differentiable function of it. At the optimum the
# gradient of the penalised log-likelihood vanishes: what the data pull is what the penalty holds.

# %%
kinetic = fits["kinetic"].value


def log_likelihood(model):
    return jnp.sum(lattice.log_likelihood(model, split.train.spikes))


value, gradient = jax.jit(jax.value_and_grad(log_likelihood))(kinetic)
pull = np.abs(np.asarray(gradient.weight - 1.0 * kinetic.weight)).max()
print(f"log-likelihood {value:.1f} nats; largest gradient left {pull:.1e}")
assert pull < 1e-3

# %% [markdown]
# ## What the theory says of the data
#
# `lattice.statistics` gives the theory's rates and covariances, exactly. Here are the covariances
# of different neurons one bin apart, which neither theory was fitted to, on the held-out blocks.

# %%
measured = statistics.measure(split.test, num_lags=2)
different = ~np.eye(raster.num_neurons, dtype=bool)
predicted = {
    model: lattice.statistics(fits[model].value, raster.bin_width, num_lags=2).lagged[1][different]
    for model in ("pairwise", "lattice")
}
plot.compare(
    measured.lagged[1][different],
    predicted,
    error=measured.lagged_error[1][different],
    quantity="covariance",
    title="one bin later, held-out blocks",
);

# %%
fit = fits["lattice"]
plot.couplings(fit.value.space, error=fit.error.space, labels=raster.labels, symmetric=True);

# %% [markdown]
# ## The headline
#
# Letting each neuron remember one bin adds far more than couplings at equal times do.

# %%
gain = float(scores["lattice"].bits_per_spike)
expected = 1.427 if SMALL else 0.857
print(f"own-history lattice over independent neurons: {gain:.3f} bits per spike")
assert abs(gain - expected) < 0.002
