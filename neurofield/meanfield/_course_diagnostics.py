"""How far a course in time can be trusted."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from scipy import stats

from neurofield._numerics import contract, standard_error
from neurofield.network import Network

from ._course_response import causality_of_course
from ._course_shared import Parts, equal_times, mean_parts
from ._diagnostics import Diagnostics, neuron_time, third_cumulants
from ._march import Marched
from ._response import scores
from ._theory import Theory


def seen_in_paths(
    theory: Theory,
    marched: Marched,
    found: dict[str, Array],
    num_steps: int,
    jitter: float,
    whole: bool,
) -> dict[str, Array]:
    """What the diagnostics need of one group of paths and their moments. No derivatives pass.

    `whole`: whether `found` has covariances of single neurons at all pairs of times.
    """
    marched, found = jax.lax.stop_gradient((marched, found))
    left, y = marched.left[:, :num_steps], marched.y[:, :num_steps]
    seen = {
        "least_pivot": jnp.min(left, axis=1),
        "clipped": jnp.mean((left < 2 * jitter).astype(theory.dtype), axis=1),
        "moments": jnp.stack(
            [_filtered(y, neuron_time(theory, p), theory.dt) for p, _ in theory.fields]
            or [jnp.zeros((y.shape[0], num_steps, 3), theory.dtype)]
        )[: len(theory.fields)],
    }
    if whole and theory.fields and num_steps > 1:
        owner = jnp.asarray([p for p, _ in theory.fields], jnp.int32)
        x, h = marched.x[owner, :num_steps], marched.h[:, :num_steps]
        seen["causality"] = causality_of_course(x, h, found["input_covariance"], jitter)
    return seen


def course_diagnostics(
    theory: Theory,
    network: Network,
    replicas: dict[str, Array],
    seen: dict[str, Array],
    parts: Parts | None,
) -> Diagnostics:
    """From all replicas, `[replica, ...]`. No derivatives pass."""
    arrays, rest = eqx.partition((theory, network, replicas, seen, parts), eqx.is_array)
    return _measured(*eqx.combine(jax.lax.stop_gradient(arrays), rest))


@eqx.filter_jit
def _measured(theory: Theory, network: Network, replicas, seen, parts) -> Diagnostics:
    mean = replicas["mean"]
    size = jnp.abs(jnp.mean(mean, axis=0))
    error = standard_error(mean)
    found = {
        "mean_error": error / jnp.where(size > 0, size, 1),
        "clipped": jnp.mean(seen["clipped"], axis=0),
        "least_pivot": jnp.min(seen["least_pivot"], axis=0),
        "skewness": _skewness(theory, network, jnp.mean(seen["moments"], axis=0)),
    }
    if "causality" in seen:
        sums = seen["causality"]  # [replica, lag, row, path]
        z = jnp.abs(scores(jnp.concatenate(list(sums), axis=-1)))
        expected = stats.norm.isf((1 - 0.5 ** (1 / z.size)) / 2)
        found["causality"] = jnp.max(z)
        found["causality_expected"] = jnp.asarray(expected, theory.dtype)
    if parts is not None:
        shared, means = equal_times(theory, mean_parts(parts))
        own = jnp.diagonal(shared, axis1=0, axis2=1).T
        total = jnp.diagonal(jnp.mean(replicas["input_covariance"], axis=0), axis1=1, axis2=2)
        if "shared_covariance" not in replicas:
            total = total + own
        found["finite_size"] = means
        found["shared_share"] = own / jnp.where(total > 0, total, 1)
    return Diagnostics(**found)


def _skewness(
    theory: Theory, network: Network, moments: Float[Array, "field stream time moment"]
) -> Float[Array, "field time"]:
    one, two, three = jnp.moveaxis(moments, -1, 0)
    second = contract("fs,fst->ft", theory.vQ, two) - contract("fs,fst->ft", theory.vM, one**2)
    powers = jnp.stack([three, two * one, one**3], axis=-1)
    cubed = contract("fsk,fstk->ft", third_cumulants(network, theory), powers)
    return jnp.where(second > 0, cubed / jnp.where(second > 0, second, 1) ** 1.5, 0)


def _filtered(
    y: Float[Array, "stream time path"], tau: Array, dt: float
) -> Float[Array, "stream time moment"]:
    """First three moments of what a leaky integrator sees of the streams."""
    keep = jnp.exp(-dt / jnp.asarray(tau, y.dtype))

    def go(state: Array, y: Array):
        state = keep * state + (1 - keep) * y
        return state, jnp.stack([jnp.mean(state**k, axis=1) for k in (1, 2, 3)], axis=1)

    _, found = jax.lax.scan(go, y[:, 0], jnp.moveaxis(y, 1, 0))
    return jnp.moveaxis(found, 0, 1)
