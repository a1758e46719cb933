"""Networks of asynchronous binary neurons with a sharp threshold, in closed form.

After van Vreeswijk & Sompolinsky (1998) and Ginzburg & Sompolinsky (1994).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract

from ._gaussian import bivariate_normal, checked, newton_step
from ._lags import LowPass, at_zero, cosines, series, spectrum

_NUM_NODES = 64
_LENGTH = 30.0  # of the lags, in time constants


class BinaryEquations(eqx.Module):
    """Weights' statistics `[post, pre]`, constant inputs less the threshold, time constants, the
    variances of static input and of input that is drawn at each update, and sizes."""

    mean: Float[Array, "population population"]
    vQ: Float[Array, "population population"]
    vM: Float[Array, "population population"]
    drive: Float[Array, " population"]
    tau: Float[Array, " population"]
    static: Float[Array, " population"]
    fresh: Float[Array, " population"]
    sizes: Float[Array, " population"]

    def input(self, m: Array, q: Array) -> tuple[Array, Array, Array]:
        """Mean of the input above threshold, its variance, and its variance over neurons."""
        fixed = self.static - contract("ab,b->a", self.vM, m**2)
        return (
            self.drive + contract("ab,b->a", self.mean, m),
            fixed + self.fresh + contract("ab,b->a", self.vQ, m),
            fixed + contract("ab,b->a", self.vQ, q),
        )

    def shared(self, m: Array, q: Array, mean: Array, variance: Array) -> Array:
        """What the fluctuations of population means add to the variance of the input."""
        common = self.white_covariance(m - q, self.gain(mean, variance, False))
        return contract("ab,bc,ac->a", self.mean, common, self.mean)

    def output(self, mean: Array, variance: Array, frozen: Array) -> tuple[Array, Array]:
        """m and q."""
        # A trial step may leave the range where these are variances.
        variance = jnp.maximum(variance, float(jnp.finfo(mean.dtype).tiny) ** 0.5)
        alpha = -mean / jnp.sqrt(variance)
        rho = jnp.clip(frozen / variance, -1, 1 - 1e-6)
        return jax.scipy.special.ndtr(-alpha), bivariate_normal(alpha, alpha, rho)

    def gain(self, mean: Array, variance: Array, total: bool) -> Array:
        """`[post, pre]`: change of the mean output by the mean output of the sources, by the mean
        of the input, and with `total` by its variance, too."""
        slope = jnp.exp(-(mean**2) / (2 * variance)) / jnp.sqrt(2 * math.pi * variance)
        gain = slope[:, None] * self.mean
        return gain - (slope * mean / (2 * variance))[:, None] * self.vQ if total else gain

    def white_covariance(self, autocovariance: Array, gain: Array) -> Array:
        """Of population means under white noise, which gives each neuron its autocovariance."""
        leak = (jnp.eye(self.tau.shape[0], dtype=gain.dtype) - gain) / self.tau[:, None]
        return lyapunov(leak, 2 * autocovariance / (self.sizes * self.tau))


class BinaryState(eqx.Module):
    """Stationary state of binary networks.

    - `mean`: m, of the states; `quenched`: q, the second moment over neurons of their time average.
    - `input_mean`, `input_variance`, `input_static`: of the summed input, less the threshold; the
      last is the variance over neurons of its time average.
    - `residual`: the largest error of the equations.
    """

    mean: Float[Array, " population"]
    quenched: Float[Array, " population"]
    input_mean: Float[Array, " population"]
    input_variance: Float[Array, " population"]
    input_static: Float[Array, " population"]
    residual: Float[Array, ""]
    temporal: Float[Array, "population node"]
    length: Float[Array, ""]
    equations: BinaryEquations

    def second(self, lags: Float[Array, " lag"]) -> Float[Array, "population lag"]:
        """E[n(t) n(t + lag)] at lags in seconds."""
        x = jnp.abs(lags) / self.length
        inside = series(self.temporal, jnp.minimum(x, 1))
        return self.quenched[:, None] + jnp.where((x < 1)[None, :], inside, 0)

    def population_covariance(
        self, *, total_gain: bool = True, coloured: bool = True
    ) -> Float[Array, "population population"]:
        """Of population means at equal times, of order 1 / N.

        Off the diagonal it is the mean covariance of pairs of neurons; on it, that and m - q over
        the population's size. `total_gain`: counts the response to the variance of the input;
        `coloured`: drives the populations by the neurons' own autocovariances, not by white noise.
        Without both it is that of Ginzburg & Sompolinsky (1994).
        """
        equations = self.equations
        gain = equations.gain(self.input_mean, self.input_variance, total_gain)
        if not coloured:
            return equations.white_covariance(self.mean - self.quenched, gain)
        u, du, _ = (jnp.asarray(x, gain.dtype) for x in cosines(_NUM_NODES))
        scale = 2 / self.length
        power = spectrum(self.temporal, self.length) / equations.sizes[:, None]
        # (1 - R W)^-1 = (1 + i w tau - W)^-1 (1 + i w tau).
        w = equations.tau[None, :] * (u * scale)[:, None]
        real = jnp.eye(gain.shape[0], dtype=gain.dtype) - gain
        matrix = jax.lax.complex(
            jnp.broadcast_to(real[None], (u.shape[0], *real.shape)), jax.vmap(jnp.diag)(w)
        )
        source = jax.vmap(jnp.diag)(jax.lax.complex(jnp.ones_like(w), w))
        response = jnp.linalg.solve(matrix, source)
        product = (response[:, :, None] * jnp.conj(response)[:, None, :]).real
        return contract("uabc,cu,u->ab", product, power, du * scale / math.pi)


def binary(
    mean: Float[Array, "population population"],
    vQ: Float[Array, "population population"],
    vM: Float[Array, "population population"],
    *,
    drive: Float[Array, " population"],
    threshold: Float[Array, " population"],
    tau: Float[Array, " population"],
    sizes: Float[Array, " population"],
    static: Float[Array, " population"] | None = None,
    fresh: Float[Array, " population"] | None = None,
    order: str = "leading",
    throw: bool = True,
) -> BinaryState:
    """Binary neurons that become 1 where the input is above threshold, at random times.

    `mean`, `vQ`, `vM`: the statistics of the weights, `[post, pre]` (see `BlockStatistics`);
    `drive`: constant input; `static`: its variance over neurons; `fresh`: the variance of normal
    noise that each update draws; `tau`: mean time between updates, s; `sizes`: of the populations.
    `order="shared"` adds to the variance of the input what the fluctuations of population means
    give, those of Ginzburg & Sompolinsky (1994). The input must vary. Lags in seconds.
    Differentiable, forward and reverse, once. In float64 means are to rounding, covariances of
    times and populations to about 1e-6.

    `throw`: raise where no solution was found; else see `residual`. Raises `ValueError` for an
    unknown order. After van Vreeswijk & Sompolinsky (1998).
    """
    if order not in ("leading", "shared"):
        raise ValueError(f'order must be "leading" or "shared", got {order!r}.')
    static = jnp.zeros_like(tau) if static is None else static
    fresh = jnp.zeros_like(tau) if fresh is None else fresh
    equations = BinaryEquations(mean, vQ, vM, drive - threshold, tau, static, fresh, sizes)
    found = solve_binary(equations, order == "shared")
    return checked(found, "binary") if throw else found


@eqx.filter_jit
def solve_binary(equations: BinaryEquations, shared: bool) -> BinaryState:
    dtype, num = equations.tau.dtype, equations.tau.shape[0]
    fixed = jax.tree.map(jax.lax.stop_gradient, equations)

    def relax(m: Array, step: Array) -> tuple[Array, None]:
        """One linearly implicit step of tau dm/dt = -m + F(m), in time constants."""

        def drift(m):
            return fixed.output(*fixed.input(m, m))[0] - m

        matrix = jnp.eye(num, dtype=dtype) / step - jax.jacfwd(drift)(m)
        return jnp.clip(m + jnp.linalg.solve(matrix, drift(m)), 1e-6, 1 - 1e-6), None

    # The network's own dynamics leads to a stable state, and ever longer steps to its digits.
    steps = 0.02 * 1.25 ** jnp.arange(60, dtype=dtype)
    m, _ = jax.lax.scan(relax, jnp.full(num, 0.5, dtype), steps)
    # q = m is a solution too, of a frozen network: the lowest is reached from below.
    q = jax.lax.fori_loop(0, 200, lambda _, q: fixed.output(*fixed.input(m, q))[1], m**2)

    def residual(equations: BinaryEquations, z: Array) -> Array:
        m, q, variance = jnp.split(z, 3)
        mean, found, frozen = equations.input(m, q)
        if shared:
            found = found + equations.shared(m, q, mean, variance)
        return z - jnp.concatenate([*equations.output(mean, variance, frozen), found])

    def polish(_, z: Array) -> Array:
        return newton_step(lambda z: residual(fixed, z), z)[0]

    z = jax.lax.fori_loop(0, 12, polish, jnp.concatenate([m, q, fixed.input(m, q)[1]]))
    z, error = newton_step(lambda z: residual(equations, z), z)
    m, q, variance = jnp.split(z, 3)
    mean, _, frozen = equations.input(m, q)
    length = jax.lax.stop_gradient(_LENGTH * jnp.max(equations.tau))
    filtered = LowPass(equations.tau, length, _NUM_NODES)
    unit = filtered(jnp.zeros((num, _NUM_NODES), dtype), jnp.ones(num, dtype))

    def temporal(z: Array, parameters: tuple) -> Array:
        """One sweep of (1 - tau^2 d^2) Q = Phi2(C / variance) with Q(0) = m, of Q - q."""
        equations, filtered, unit, m, q, mean, variance, frozen = parameters
        alpha = jnp.broadcast_to((-mean / jnp.sqrt(variance))[:, None], z.shape)
        c = frozen[:, None] + contract("ab,bk->ak", equations.vQ, z)
        rho = jnp.clip(c / variance[:, None], -1, 1 - float(jnp.finfo(dtype).eps))
        source = bivariate_normal(alpha, alpha, rho) - q[:, None]
        free = filtered(source, jnp.zeros(num, dtype))
        slope = (m - q - at_zero(free)) / at_zero(unit)
        return free + slope[:, None] * unit

    everything = (equations, filtered, unit, m, q, mean, variance, frozen)
    held = jax.tree.map(jax.lax.stop_gradient, everything)
    start = unit * ((m - q) / at_zero(unit))[:, None]
    start = jax.lax.stop_gradient(start)
    z = jax.lax.fori_loop(0, 60, lambda _, z: temporal(z, held), start)
    flat, _ = newton_step(
        lambda z: z - temporal(z.reshape(start.shape), everything).reshape(-1), z.reshape(-1)
    )
    return BinaryState(
        mean=m,
        quenched=q,
        input_mean=mean,
        input_variance=variance,
        input_static=frozen,
        residual=jax.lax.stop_gradient(jnp.max(jnp.abs(error))),
        temporal=flat.reshape(start.shape),
        length=length,
        equations=equations,
    )


def lyapunov(leak: Float[Array, "n n"], noise: Float[Array, " n"]) -> Float[Array, "n n"]:
    """C of leak C + C leak^T = diag(noise)."""
    eye = jnp.eye(leak.shape[0], dtype=leak.dtype)
    operator = jnp.kron(leak, eye) + jnp.kron(eye, leak)
    return jnp.linalg.solve(operator, jnp.diag(noise).reshape(-1)).reshape(leak.shape)
