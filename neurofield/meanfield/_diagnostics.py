"""How far a solution can be trusted: what every solve that draws paths says of itself."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from scipy import stats

from neurofield._numerics import contract, standard_error
from neurofield.network import (
    AllToAll,
    Dense,
    ErdosRenyi,
    FixedIndegree,
    Gaussian,
    LogNormal,
    Matrix,
    Network,
    Normal,
    resolve_channel,
)

from ._response import Responses, causality_sums, scores
from ._stability import nyquist
from ._stationary import Fields, Moments, Sampled, Sampling, _taper, sample
from ._theory import Theory


class Diagnostics(eqx.Module):
    """What limits a solution. `None` where the method does not give it. No derivatives pass.

    Of courses in time (a march or relaxation), `*time` is there: `mean_error`, `clipped`,
    `least_pivot` and `skewness` always, `causality` where no window cuts the past off, except at
    order "nested", and, if the response was asked for too, `finite_size` and `shared_share`. Of
    stationary solutions all but `least_pivot`. Of both, the last four from `diagnose`.

    - `mean_error`: `[population, *time]`, standard error of the mean output over its modulus.
    - `clipped`: `[field]`, share of the input's power at frequencies where its estimate was
      negative, and set to zero; of courses, share of the steps at which the past leaves less open
      of the input than `jitter` adds.
    - `least_pivot`: `[field]`, the least share of the input's variance at a step that its past
      leaves open, `jitter` included: below it the covariance was not positive definite.
    - `skewness`: `[field, *time]`, of the recurrent input as a leaky integrator of the neuron's
      `tau` (10 ms for one that has none) sees it, over neurons and time: 0 of the Gaussian that is
      assumed; that of K inputs goes as 1 / sqrt(K). Where expectations are transmitted, of those
      alone. NaN for connections whose third cumulant is not known here.
    - `gain`: `[population, population]`, change of the mean output of one population (first index)
      per change of that of another, by all their synapses, at frequency zero; `gain_error`.
    - `finite_size`: `[population, population, *time]`, covariance of the mean outputs of finite
      networks over the draws of their connections and of their heterogeneity; of courses, over
      their noise as well, at each time.
    - `shared_share`: `[field, *time]`, share of the fluctuations at frequency zero, of courses of
      the variance at each time, that a field would owe to the finite sizes, which neurons of a
      population share; leading order takes it to be small.
    - `stable`: whether no fluctuation of the population means grows, at any frequency;
      `least_determinant`: the smallest modulus of det(1 - R W) over frequencies, close to 0 near an
      instability; `crossing_frequency`: hertz, of the oscillation that sets in first, or has (0 for
      a drift). See `stability`, which has all of it. `None` without a response.
    - `causality`: the largest modulus of the z-scores of correlations of outputs with what is new
      in later inputs, of which there are none in truth; `causality_expected`: the median of the
      largest of as many normal numbers. `None` without a response (stationary).
    - `half_step`, `more_paths`: `[population]`, changes of the mean output at half the step, and
      with twice the paths and other random numbers; from `diagnose`. `half_step_error`,
      `more_paths_error`.
    """

    mean_error: Float[Array, "population *time"] | None = None
    clipped: Float[Array, "field"] | None = None
    least_pivot: Float[Array, "field"] | None = None
    skewness: Float[Array, "field *time"] | None = None
    gain: Float[Array, "population population"] | None = None
    gain_error: Float[Array, "population population"] | None = None
    finite_size: Float[Array, "population population *time"] | None = None
    shared_share: Float[Array, "field *time"] | None = None
    stable: Bool[Array, ""] | None = None
    least_determinant: Float[Array, ""] | None = None
    crossing_frequency: Float[Array, ""] | None = None
    causality: Float[Array, ""] | None = None
    causality_expected: Float[Array, ""] | None = None
    half_step: Float[Array, "population"] | None = None
    half_step_error: Float[Array, "population"] | None = None
    more_paths: Float[Array, "population"] | None = None
    more_paths_error: Float[Array, "population"] | None = None

    @property
    def leading_gain(self) -> float:
        """The largest real part of the eigenvalues of `gain`: 1 where slow changes grow."""
        if self.gain is None:
            raise ValueError("this solution has no gain: it is of stationary solves that draw.")
        return float(np.linalg.eigvals(np.asarray(self.gain)).real.max())

    @property
    def shift(self) -> Float[Array, "population *time"] | None:
        """How far one finite network's mean may be from the solution: one standard deviation."""
        if self.finite_size is None:
            return None
        own = jnp.diagonal(self.finite_size, axis1=0, axis2=1)
        return jnp.sqrt(jnp.maximum(jnp.moveaxis(own, -1, 0), 0))

    def __str__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.gain is not None:
            shown["leading_gain"] = self.leading_gain
        return "\n".join(
            f"{name}: {np.array2string(np.asarray(value), precision=3, separator=', ')}"
            for name, value in shown.items()
            if value is not None
        )


def path_statistics(theory: Theory, sampled: Sampled) -> dict[str, Array]:
    """What the diagnostics need of one group of paths.

    The response of the mean output to a constant input is the slope of the paths' time averages on
    those of their fields, which are Gaussian (Furutsu 1963, Novikov 1965): exact where the paths
    are longer than the response.
    """
    num = sampled.x.shape[2]
    outputs, fields = jnp.mean(sampled.x, axis=0), jnp.mean(sampled.h, axis=0)
    outputs = outputs - jnp.mean(outputs, axis=1)[:, None]
    fields = fields - jnp.mean(fields, axis=1)[:, None]
    owner = jnp.asarray([p for p, _ in theory.fields], jnp.int32)
    own = outputs[owner]
    variance = jnp.sum(fields**2, axis=1)
    tiny = jnp.finfo(theory.dtype).tiny
    slope = jnp.sum(own * fields, axis=1) / jnp.maximum(variance, tiny)
    rest = jnp.sum((own - slope[:, None] * fields) ** 2, axis=1) / num
    seen = {}
    for p, _ in theory.fields:
        if p not in seen:
            seen[p] = _filtered_moments(sampled.y, neuron_time(theory, p), theory.dt)
    return {
        "slope": slope,
        "slope_error": jnp.sqrt(rest / jnp.maximum(variance, tiny)),
        "stream": jnp.mean(sampled.y, axis=(0, 2)),
        "moments": jnp.stack([seen[p] for p, _ in theory.fields]),
    }


def neuron_time(theory: Theory, population: int) -> Array:
    """Seconds over which a neuron sums its input; 10 ms where it has no `tau`."""
    return jnp.mean(jnp.asarray(getattr(theory.populations[population].neuron, "tau", 0.01)))


def diagnose_paths(
    theory: Theory, third: Float[Array, "field stream part"], found: dict[str, Array]
) -> dict[str, Array]:
    """Diagnostics of one group of paths.

    `found`: its means, covariances and quenched variances, with `path_statistics` and `clipped`.
    """
    mean = found["mean"]
    response = jnp.zeros((len(theory.names), len(theory.fields)), theory.dtype)
    response_error = response
    for f, (p, _) in enumerate(theory.fields):
        response = response.at[p, f].set(found["slope"][f])
        response_error = response_error.at[p, f].set(found["slope_error"][f])
    # How a stream's mean goes with the mean of its source.
    source = mean[jnp.asarray(theory.sources, jnp.int32)]
    share = jnp.where(source == 0, 0, found["stream"] / jnp.where(source == 0, 1, source))
    area = jnp.zeros((len(theory.streams), len(theory.names)), theory.dtype)
    for s, p in enumerate(theory.sources):
        stream = theory.streams[s]
        plain = stream.plasticity is None
        value = stream.kernel.area() if plain else share[s]
        area = area.at[s, p].set(value.astype(theory.dtype))
    weights = contract("fs,sp->fp", theory.mean, area)
    gain = contract("pf,fq->pq", response, weights)
    gain_error = jnp.sqrt(contract("pf,fq->pq", response_error**2, weights**2))
    eye = jnp.eye(len(theory.names), dtype=theory.dtype)
    amplify = jnp.linalg.inv(eye - gain)
    sizes = jnp.asarray(theory.sizes, theory.dtype)
    own = jnp.maximum(found["quenched"], 0) / sizes
    finite = contract("ab,b,cb->ac", amplify, own, amplify)
    moving = found["covariance"] - found["quenched"][:, None]
    density = _at_zero(moving, theory.dt) / sizes
    through = contract("fp,pq->fq", weights, amplify)
    shared = contract("fq,q->f", through**2, jnp.maximum(density, 0))
    static = found["input_quenched"][:, None]
    private = _at_zero(found["input_covariance"] - static, theory.dt)
    second = contract("fs,fs->f", theory.vQ, found["moments"][..., 1])
    second = second - contract("fs,fs->f", theory.vM, found["moments"][..., 0] ** 2)
    one, two, three = jnp.moveaxis(found["moments"], -1, 0)
    cubed = jnp.sum(third * jnp.stack([three, two * one, one**3], axis=-1), axis=(1, 2))
    spread = jnp.where(second > 0, second, 1) ** 1.5
    positive = private > 0
    return {
        "clipped": found["clipped"],
        "skewness": jnp.where(second > 0, cubed / spread, 0),
        "gain": gain,
        "gain_error": gain_error,
        "finite_size": finite,
        "shared_share": jnp.where(
            positive, shared / (shared + jnp.where(positive, private, 1)), 1.0
        ),
    }


def measure_diagnostics(
    keys: Key[Array, " replica"],
    theory: Theory,
    network: Network,
    replicas: dict[str, Float[Array, "replica ..."]],
    moments: Moments,
    sampling: Sampling,
) -> Diagnostics:
    """Diagnostics of a stationary solution, from paths through the fields of each replica.

    No derivatives pass.
    """
    arrays, rest = eqx.partition((theory, network, replicas, moments), eqx.is_array)
    theory, network, replicas, moments = eqx.combine(jax.lax.stop_gradient(arrays), rest)
    third = third_cumulants(network, theory)
    names = ("mean", "covariance", "quenched", "input_mean", "input_covariance", "input_quenched")
    own = {name: replicas[name] for name in names}
    groups, sums = _of_replicas(keys, theory, third, own, sampling, "response" in replicas)
    found = {name: jnp.mean(x, axis=0) for name, x in groups.items()}
    count = len(replicas["mean"])
    size = jnp.maximum(jnp.abs(found.pop("mean")), jnp.finfo(theory.dtype).tiny)
    error = standard_error(groups["mean"])
    found["gain_error"] = found["gain_error"] / count**0.5
    if sums is not None:
        names = ("response", "variance_response", "stream_response")
        responses = [replicas.get(name) for name in names]
        found |= _of_responses(theory, responses, moments.mean, sums)
    return Diagnostics(**found, mean_error=error / size)


@eqx.filter_jit
def _of_replicas(keys, theory, third, replicas, sampling, causality: bool):
    def one(args: tuple[Array, dict[str, Array]]) -> tuple[dict[str, Array], Array | None]:
        key, found = args
        law = Fields(found["input_mean"], found["input_covariance"], found["input_quenched"])
        sampled = sample(key, theory, law, sampling)
        found = {**found, **path_statistics(theory, sampled), "clipped": sampled.clipped}
        sums = None
        if causality:
            owner = jnp.asarray([p for p, _ in theory.fields], jnp.int32)
            sums = causality_sums(sampled.x[:, owner], sampled.h, sampling.num_lags)
        return {**diagnose_paths(theory, third, found), "mean": found["mean"]}, sums

    return jax.lax.map(one, (keys, replicas))


@eqx.filter_jit
def _of_responses(theory, responses, mean, sums) -> dict[str, Array]:
    """Stability, from the responses of all replicas together, and causality."""
    # As changes per unit in one step.
    output, variance, stream = jax.tree.map(lambda x: jnp.mean(x, axis=0) * theory.dt, responses)
    found = nyquist(theory, Responses(output, variance, stream), jnp.mean(mean, axis=0))
    z = jnp.abs(scores(jnp.concatenate(sums, axis=-1)))
    return {
        "stable": found.stable,
        "least_determinant": found.least,
        "crossing_frequency": found.crossing,
        "causality": jnp.max(z),
        "causality_expected": jnp.asarray(
            stats.norm.isf((1 - 0.5 ** (1 / z.size)) / 2), theory.dtype
        ),
    }


def _at_zero(covariance: Float[Array, "row lag"], dt: float) -> Float[Array, "row"]:
    """The spectrum at frequency zero, the lags tapered as the fields are."""
    tapered = covariance * _taper(covariance.shape[1], covariance.dtype)[None]
    return dt * (2 * jnp.sum(tapered, axis=1) - tapered[:, 0])


# --- the third cumulant of the input --------------------------------------------------------------


def _filtered_moments(
    y: Float[Array, "time stream path"], tau: Array | float, dt: float
) -> Float[Array, "stream moment"]:
    """First three moments of what a leaky integrator sees of the streams, over the later half."""
    keep = jnp.exp(-dt / jnp.asarray(tau, y.dtype))
    late = jnp.arange(y.shape[0], dtype=jnp.int32) >= y.shape[0] // 2

    def go(carry: tuple[Array, Array], now: tuple[Array, Array]):
        state, sums = carry
        y, counts = now
        state = keep * state + (1 - keep) * y
        powers = jnp.stack([jnp.mean(state**k, axis=1) for k in (1, 2, 3)], axis=1)
        return (state, sums + jnp.where(counts, powers, 0)), None

    start = (jnp.mean(y, axis=0), jnp.zeros((y.shape[1], 3), y.dtype))
    (_, sums), _ = jax.lax.scan(go, start, (y, late))
    return sums / (y.shape[0] - y.shape[0] // 2)


def third_cumulants(network: Network, theory: Theory) -> Float[Array, "field stream part"]:
    """What multiplies <y^3>, <y^2><y> and <y>^3 in the third cumulant of the sums over sources."""
    zero = jnp.zeros(3, theory.dtype)
    table = [[zero for _ in theory.streams] for _ in theory.fields]
    for projection, place in zip(network.projections, theory.places, strict=True):
        target = network.names.index(projection.target)
        field = theory.fields.index((target, resolve_channel(network, projection)))
        num_pre = network[projection.source].size
        found = jnp.stack([jnp.asarray(x) for x in _third(projection.connectivity, num_pre)])
        table[field][place] = table[field][place] + found.astype(theory.dtype)
    if not theory.fields:
        return jnp.zeros((0, len(theory.streams), 3), theory.dtype)
    return jnp.stack([jnp.stack(row) for row in table])


def _third(rule: Any, num_pre: int) -> tuple[Any, Any, Any]:
    """Of one block: the sources' activity is given, connections and weights are drawn."""
    if isinstance(rule, Gaussian):
        return 0.0, 0.0, 0.0
    if isinstance(rule, Matrix | Dense):
        weights = rule.weights if isinstance(rule, Matrix) else rule.weights.T
        about = weights - jnp.mean(weights, axis=0)[None]
        return jnp.sum(jnp.mean(about**3, axis=0)), 0.0, 0.0
    if not isinstance(rule, ErdosRenyi | FixedIndegree | AllToAll):
        return jnp.nan, 0.0, 0.0
    mean, variance, third = _cumulants(rule.weight)
    num = num_pre if rule.autapses else num_pre - 1
    if isinstance(rule, AllToAll):
        return num * third, 0.0, 0.0
    if isinstance(rule, ErdosRenyi):
        p = rule.probability
        raw = third + 3 * mean * variance + mean**3
        second = variance + mean**2
        return num * (p * raw - 3 * p**2 * second * mean + 2 * p**3 * mean**3), 0.0, 0.0
    share = 0.0 if rule.multapses else rule.indegree / num
    spread = rule.indegree * 3 * mean * variance * (1 - share)
    choice = rule.indegree * mean**3 * (1 - share) * (1 - 2 * share)
    return rule.indegree * third + spread + choice, -spread - 3 * choice, 2 * choice


def _cumulants(weight: Any) -> tuple[Any, Any, Any]:
    """Mean, variance and third cumulant of a weight."""
    if isinstance(weight, LogNormal):
        spread = (weight.sd / weight.mean) ** 2
        return weight.mean, weight.sd**2, weight.mean**3 * spread**2 * (3 + spread)
    if isinstance(weight, Normal):
        return (*weight.moments(), jnp.nan if weight.dale else 0.0)
    return weight, 0.0, 0.0
