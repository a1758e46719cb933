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
# # Ever coarser: a connectome, spikes and calcium, each beside its nulls
#
# Two ways to look at a network from further and further away. A graph is coarse-grained by
# diffusion on it: where the specific heat of diffusion peaks, the graph falls into parts
# (`renorm.rg_flow`). Activity is coarse-grained by its own correlations: the most correlated units
# are summed, again and again (`renorm.phenomenological_flow`). Both always find something, so each
# is held against data that keep part of the structure and have the rest drawn by lot.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.csgraph import connected_components

from neurofield import plot, recording, renorm

jax.config.update("jax_enable_x64", True)
SMALL = bool(os.environ.get("NEUROFIELD_SMALL"))
NULLS, SURROGATES, BOOTSTRAP = (3, 10, 20) if SMALL else (20, 100, 200)

# %% [markdown]
# ## The connectome of *C. elegans*
#
# Chemical synapses between the cells of the hermaphrodite, the largest connected part. Degrees are
# very unequal; nulls keep every cell's numbers of partners in and out, and the weights of its
# outgoing synapses, and rewire the rest.

# %%
chemical = recording.example("celegans")


def largest_part(weights):
    component = connected_components(weights != 0, directed=False)[1]
    inside = np.flatnonzero(component == np.bincount(component).argmax())
    return recording.Graph(
        weights[np.ix_(inside, inside)], labels=[chemical.labels[i] for i in inside]
    )


worm = largest_part(np.asarray(chemical.weights))
rewired = [
    renorm.null_graph(key, worm, "configuration")
    for key in jax.random.split(jax.random.key(1), NULLS)
]
print(f"{worm.num_nodes} cells, {np.count_nonzero(worm.weights)} connections, {NULLS} nulls")


# %% [markdown]
# Diffusion time has two meanings. Under the combinatorial Laplacian cells with many synapses spread
# fast; under the normalised one every cell takes a step per unit of time, whatever its degree.


# %%
def heat(graph, kind):
    matrix = renorm.laplacian(renorm.diffusion_weights(graph), kind)
    first, last = (0.01, 200) if kind == "combinatorial" else (0.3, 1e4)
    return renorm.thermodynamics(matrix, jnp.geomspace(first, last, 300))


kinds = ("combinatorial", "normalised")
own = {kind: heat(worm, kind) for kind in kinds}
chance = {kind: [heat(graph, kind) for graph in rewired] for kind in kinds}
scales = {kind: renorm.diffusion_scales(own[kind]) for kind in kinds}

figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for ax, kind in zip(axes, kinds, strict=True):
    for index, one in enumerate(chance[kind]):
        label = "same degrees, rewired" if index == 0 else None
        ax.plot(one.diffusion_times, one.specific_heat, color="0.7", lw=0.7, label=label)
    ax.plot(own[kind].diffusion_times, own[kind].specific_heat, lw=1.6, label="C. elegans")
    for time in scales[kind].times:
        ax.axvline(time, color="black", lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="diffusion time", ylabel="specific heat", title=kind)
    ax.legend(frameon=False, fontsize=8)
    found = [renorm.diffusion_scales(one).times for one in chance[kind]]
    print(f"{kind}: {scales[kind].reason}")
    print(f"  nulls with a scale: {sum(len(times) > 0 for times in found)} of {NULLS}")


# %%
def against(value, null):
    null = np.asarray(null)
    spread = null.std(ddof=1)
    z = (value - null.mean()) / spread
    return f"{value:.3f}, nulls {null.mean():.3f} ± {spread:.3f}, z {z:+.1f}"


def highest(one):
    return float(np.max(one.specific_heat))


def lowest_eigenvalues(graph):
    matrix = renorm.laplacian(renorm.diffusion_weights(graph), "normalised")
    return np.linalg.eigvalsh(matrix)


tau = float(scales["normalised"].times[0])
peak = float(scales["normalised"].specific_heat[0])
null_peak = np.array([highest(one) for one in chance["normalised"]])
# How well the counts of synapses fix it: each drawn anew from a Poisson law of its own mean.
rng = np.random.default_rng(0)
recounted = [largest_part(rng.poisson(np.asarray(chemical.weights))) for _ in range(NULLS)]
again = [renorm.diffusion_scales(heat(graph, "normalised")) for graph in recounted]
tau_error = np.std([s.times[0] for s in again], ddof=1)
peak_error = np.std([s.specific_heat[0] for s in again], ddof=1)
print(f"tau* = {tau:.2f} ± {tau_error:.2f} steps, C there {peak:.2f} ± {peak_error:.2f}")

null_highest = [highest(one) for one in chance["combinatorial"]]
print("highest C, combinatorial:", against(highest(own["combinatorial"]), null_highest))
print("highest C, normalised:", against(peak, null_peak))

# %% [markdown]
# With 20 nulls: the normalised specific heat has one scale that tells of parts, at tau* = 6.95
# steps (± 0.11 by recounting the synapses, which also moves its mean by 0.2), where C = 3.23 ±
# 0.03. No null has any: each covers the whole graph at once, in one peak of C = 6.19 ± 0.14
# (z = -21). The worm holds diffusion back where a random graph of the same degrees does not.
#
# What is *not* there: under the combinatorial Laplacian the highest C is 1.45 against 1.81 ± 0.17
# (z = -2.2), and 4 of the 20 nulls have a scale too. Its first maximum, at tau = 0.125, is that of
# cells with many synapses and says nothing of parts. No plateau, so no spectral dimension.

# %% [markdown]
# The number of parts at tau* is that of the modes slower than 1 / tau*.

# %%
spectrum = lowest_eigenvalues(worm)
slow = int((spectrum < 1 / tau).sum())
null_spectra = [lowest_eigenvalues(graph) for graph in rewired]
print(f"{slow} modes below 1 / tau*; lowest eigenvalues {spectrum[1:4].round(4)}")
print("lambda_1:", against(spectrum[1], [values[1] for values in null_spectra]))
key = jax.random.key(2)
modules = renorm.communities(key, worm, "modularity")
null_modules = [renorm.communities(key, graph, "modularity") for graph in rewired]
print("modularity:", against(float(modules.quality), [float(m.quality) for m in null_modules]))
print("modules:", against(modules.num_communities, [m.num_communities for m in null_modules]))
parts = renorm.communities(key, worm, "spectral", num_communities=slow)
for part in range(slow):
    members = [worm.labels[i] for i in np.flatnonzero(np.asarray(parts.labels) == part)]
    print(f"part {part}: {len(members)} cells: {', '.join(members[:12])}, ...")

# %% [markdown]
# Three parts. The 50 cells of the first are the pharynx, which is all but a network of its own:
# lambda_1 is 0.0027, of the nulls 0.33 ± 0.03 (z = -12). Modularity finds 7 modules (nulls 15.5 ±
# 1.5) of quality 0.541 (0.350 ± 0.004, z = +44).

# %% [markdown]
# The flow itself, which keeps the stationary flows of a random walk: 446 cells become 3 supernodes
# at tau*, one with 323 of the cells, then 2, and then no scale is left. The null stays as it is.

# %%
walk = recording.Graph(renorm.diffusion_weights(worm), labels=worm.labels)
worm_flow = renorm.rg_flow(
    walk, method="equilibrium", nulls=["configuration"], key=jax.random.key(3)
)
plot.flow(worm_flow)
print("nodes:", worm_flow.size, "scales:", worm_flow.scale)
print("null:", worm_flow.nulls["configuration"].size)
for note in worm_flow.notes:
    print(note)

# %% [markdown]
# ## Spikes: head-direction cells and hippocampus
#
# Fifteen units, seven of the anterodorsal thalamus and eight of the hippocampus. The graph is
# inferred from all pairs' lagged correlations, each tested against circular shifts; nobody tells
# it which unit lies where.

# %%
spikes = recording.bin_spikes(
    recording.example("head_direction"), 0.02, epochs=(600.0, 700.0) if SMALL else None
)
inferred = renorm.infer_graph(spikes, "var", key=jax.random.key(4), num_surrogates=SURROGATES)
plot.couplings(inferred.graph.weights, labels=inferred.graph.labels, unit="weight", title="var")
edges = np.asarray(inferred.graph.weights) != 0
across = edges[:7, 7:].sum() + edges[7:, :7].sum()
print(f"{edges.sum()} connections, {across} of them between the regions")

# %% [markdown]
# 78 of the 210 possible connections are significant at a false discovery rate of 5 %, 3 of them
# between the regions. Of those in the thalamus 30 of 36 are negative: cells of different directions
# exclude each other. They do not diffuse, so that the flow below sees the 38 positive ones in the
# hippocampus and few others.

# %%
spike_flow = renorm.phenomenological_flow(jax.random.key(5), spikes, num_bootstrap=BOOTSTRAP)
graph_flow = renorm.rg_flow(inferred.graph)
figure, axes = plt.subplots(1, 3, figsize=(15, 3.8), layout="constrained")
plot.flow(spike_flow, axes[0])
plot.flow(spike_flow, axes[1], quantity="kurtosis")
plot.flow(graph_flow, axes[2])
for note in (*spike_flow.notes, *graph_flow.notes):
    print(note)

# %% [markdown]
# ## Calcium
#
# Of the 219 regions of interest in 200 s of imaging suite2p accepted 20 as cells; these are looked
# at, as deconvolved activity. Real values have nulls of their own: `gaussian` keeps all covariances
# at all lags and nothing beyond them, `shared_rate` what each cell shares with the mean of all.

# %%
calcium = recording.example("calcium_spikes")
calcium_flow = renorm.phenomenological_flow(jax.random.key(6), calcium, num_bootstrap=BOOTSTRAP)
calcium_graph = renorm.infer_graph(
    calcium, "var", key=jax.random.key(7), num_surrogates=SURROGATES
).graph
figure, axes = plt.subplots(1, 3, figsize=(15, 3.8), layout="constrained")
plot.flow(calcium_flow, axes[0])
plot.flow(calcium_flow, axes[1], quantity="kurtosis")
plot.flow(calcium_flow, axes[2], quantity="spectrum", nulls=False)
print(
    f"{np.count_nonzero(calcium_graph.weights)} connections between {calcium_graph.num_nodes} cells"
)
for note in calcium_flow.notes:
    print(note)

# %% [markdown]
# ## Side by side
#
# Spikes: the variance of summed units grows as K^1.089 (± 0.011), of units with the same number of
# spikes and the same population rate as K^0.990 (z = +8), and joint silence is more common than
# independence has it, beta = 0.917 ± 0.005 (z = -15): correlations between certain units, not a
# common rate. But 15 units leave three levels, no range in which a power law could be told from
# anything else, and mu differs more between nulls than its error.
#
# Calcium: alpha = 1.320 ± 0.019 and beta = 0.705 ± 0.018 are far from independence (z = +11, -11),
# but alpha is what the covariances alone give (`gaussian`, z = +0.3), and what a share in the mean
# of all cells gives (z = +0.9). What is beyond the covariances is the shape: the kurtosis of eight
# cells' sum is 9.0 ± 2.1, of the Gaussian analogue 0.1 ± 0.1, of the shared mean 3.2 ± 1.4. mu and
# z cannot be told from any null, blocks of 5 s are short against the correlation time, and no
# lagged connection is significant. Nothing here is evidence of a critical point.

# %%
for name, flow in {"spikes": spike_flow, "calcium": calcium_flow}.items():
    for exponent, value in flow.exponents.items():
        error = flow.exponent_errors[exponent]
        print(f"{name}: {exponent} = {value:.3f} ± {error:.3f}")
        for null, other in flow.nulls.items():
            if exponent in other.exponents:
                spread = np.hypot(error, other.exponent_errors[exponent])
                z = (value - other.exponents[exponent]) / spread
                print(f"    {null}: {other.exponents[exponent]:.3f} (z {z:+.1f})")

# %%
assert slow == 3
assert abs(tau - 6.95) < 0.1
assert peak < 0.7 * null_peak.min()
