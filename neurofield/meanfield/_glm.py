"""Networks of leaky integrators behind a nonlinearity whose Gaussian averages are known.

Escape-rate neurons without reset (doubly stochastic Poisson spikes of the voltage), and rate units.
The covariance of the voltages obeys (1 - tau^2 d^2/dlag^2) C_a = sum_b v_ab <y_b y_b'>, which is
solved on Legendre nodes of the lag by Newton's method, along a path of growing coupling.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract

from ._gaussian import bivariate_normal, checked, newton_step
from ._lags import LowPass, at_zero, series

_NUM_NODES = 56
_LENGTH = 30.0  # of the lags, in time constants
_MAX_STEPS = 200  # of the coupling, from none to all
_OUTPUTS = ("erf", "exponential", "rate", "linear")


class Nonlinearity(eqx.Module):
    """An output y of a voltage, with E[y] and E[y y'] in closed form.

    `kind`: "erf", height Phi((V - threshold) / width); "exponential", height exp((V - threshold) /
    width); "rate", height erf((V - threshold) / (width sqrt 2)), which takes both signs; "linear",
    height (V - threshold) / width.
    """

    height: Float[Array, " population"]
    threshold: Float[Array, " population"]
    width: Float[Array, " population"]
    kind: str = eqx.field(static=True)

    def __check_init__(self):
        if self.kind not in _OUTPUTS:
            raise ValueError(f"kind={self.kind!r} is not one of {', '.join(_OUTPUTS)}.")

    def mean(self, mean: Array, variance: Array) -> Array:
        """Of a normal voltage, all `[population]`."""
        if self.kind == "exponential":
            x = (mean - self.threshold) / self.width + variance / (2 * self.width**2)
            return self.height * jnp.exp(x)
        if self.kind == "linear":
            return self.height * (mean - self.threshold) / self.width
        up = jax.scipy.special.ndtr(-self._distance(mean, variance))
        return self.height * (2 * up - 1 if self.kind == "rate" else up)

    def second(self, mean: Array, variance: Array, covariance: Array) -> Array:
        """E[y y'] at covariances of the voltage `[population, lag]`."""
        if self.kind == "exponential":
            x = covariance / (self.width**2)[:, None]
            return (self.mean(mean, variance) ** 2)[:, None] * jnp.exp(x)
        if self.kind == "linear":
            slope = (self.height / self.width)[:, None]
            return (self.mean(mean, variance) ** 2)[:, None] + slope**2 * covariance
        a = self._distance(mean, variance)
        rho = covariance / (self.width**2 + variance)[:, None]
        wide = jnp.broadcast_to(a[:, None], rho.shape)
        both = bivariate_normal(wide, wide, rho)
        if self.kind == "rate":
            both = 4 * both - 4 * jax.scipy.special.ndtr(-wide) + 1
        return (self.height**2)[:, None] * both

    def _distance(self, mean: Array, variance: Array) -> Array:
        return (self.threshold - mean) / jnp.sqrt(self.width**2 + variance)


class Integrators(eqx.Module):
    """Stationary state of leaky integrators: voltages V, outputs y (hertz, or a level).

    - `mean`: E[y]; `quenched`: the second moment over neurons of their time average of y.
    - `voltage_mean`, `voltage_variance`, `voltage_static`: of V; the last is the variance over
      neurons of their time average.
    - `residual`: the largest error of the equations, relative to the quantity's size.
    """

    mean: Float[Array, " population"]
    quenched: Float[Array, " population"]
    voltage_mean: Float[Array, " population"]
    voltage_variance: Float[Array, " population"]
    voltage_static: Float[Array, " population"]
    residual: Float[Array, ""]
    temporal: Float[Array, "population node"]
    length: Float[Array, ""]
    output: Nonlinearity

    @property
    def sd(self) -> Float[Array, " population"]:
        """Standard deviation over neurons of their time average of y."""
        return jnp.sqrt(self.quenched - self.mean**2)

    def voltage_covariance(self, lags: Float[Array, " lag"]) -> Float[Array, "population lag"]:
        """At lags in seconds."""
        x = jnp.abs(lags) / self.length
        inside = series(self.temporal, jnp.minimum(x, 1))
        return self.voltage_static[:, None] + jnp.where((x < 1)[None, :], inside, 0)

    def second(self, lags: Float[Array, " lag"]) -> Float[Array, "population lag"]:
        """E[y(t) y(t + lag)] at lags in seconds; of spikes without their delta at 0."""
        covariance = self.voltage_covariance(lags)
        return self.output.second(self.voltage_mean, self.voltage_variance, covariance)


class Equations(eqx.Module):
    """The mean of V_a is drive_a + sum_b mean_ab <y_b>; its covariance is that of (1 - tau^2 d^2)
    C_a = sum_b smooth_ab <y_b y_b'> - product_ab <y_b>^2 + static_a + (sum_b shot_ab <y_b> +
    white_a) delta(lag).

    The unknowns z are, of each population, the mean of V, its variance over neurons, and the rest
    of its covariance at the nodes, in units near their sizes.
    """

    output: Nonlinearity
    tau: Float[Array, " population"]
    drive: Float[Array, " population"]
    mean: Float[Array, "population population"]
    smooth: Float[Array, "population population"]
    product: Float[Array, "population population"]
    shot: Float[Array, "population population"]
    white: Float[Array, " population"]
    static: Float[Array, " population"]

    @property
    def length(self) -> Array:
        return jax.lax.stop_gradient(_LENGTH * jnp.max(self.tau))

    @property
    def unit(self) -> Array:
        return self.output.width**2 + self.static + self.white / (2 * self.tau)

    def pack(self, voltage: Array, frozen: Array, temporal: Array) -> Array:
        columns = (voltage / jnp.sqrt(self.unit), frozen / self.unit)
        columns = [*(x[:, None] for x in columns), temporal / self.unit[:, None]]
        return jnp.concatenate(columns, 1).reshape(-1)

    def unpack(self, z: Array) -> tuple[Array, Array, Array]:
        z = z.reshape(-1, _NUM_NODES + 2)
        unit = self.unit
        return z[:, 0] * jnp.sqrt(unit), z[:, 1] * unit, z[:, 2:] * unit[:, None]

    def uncoupled(self, filtered: LowPass) -> Array:
        temporal = jnp.zeros((self.tau.shape[0], _NUM_NODES), self.tau.dtype)
        temporal = filtered(temporal, self.white / (2 * self.tau**2))
        return self.pack(self.drive, self.static, temporal)

    def residual(self, z: Array, filtered: LowPass, strength: Array | float) -> Array:
        """Of the equations with part of the coupling, all at the `strength` 2.

        To 1 that of the means, from there that of the variances: before inhibition has lowered the
        rates, neurons that differ may have no state at all.
        """
        level, spread = jnp.minimum(strength, 1), jnp.maximum(strength - 1, 0)
        voltage, frozen, temporal = self.unpack(z)
        # A trial step may leave the range where these are variances.
        frozen = jnp.maximum(frozen, 0)
        variance = jnp.maximum(frozen + at_zero(temporal), 0)
        nodes = jnp.concatenate([frozen[:, None] + temporal, frozen[:, None]], 1)
        bound = (variance + (1 - 1e-6) * self.output.width**2)[:, None]
        y = self.output.mean(voltage, variance)
        second = self.output.second(voltage, variance, jnp.clip(nodes, -bound, bound))
        held = contract("ab,b->a", self.smooth, second[:, -1])
        held = held - contract("ab,b->a", self.product, y**2)
        source = contract("ab,bk->ak", self.smooth, second[:, :-1] - second[:, -1:])
        slope = (spread * contract("ab,b->a", self.shot, y) + self.white) / (2 * self.tau**2)
        return z - self.pack(
            self.drive + level * contract("ab,b->a", self.mean, y),
            self.static + spread * held,
            filtered(spread * source, slope),
        )

    def allowed(self, z: Array) -> Array:
        """Whether variances are positive and no covariance exceeds them."""
        _, frozen, temporal = self.unpack(z)
        most = at_zero(temporal)
        slack = 1e-6 * (frozen + most)
        below = jnp.abs(temporal) <= (most + slack)[:, None]
        return jnp.all(frozen >= -slack) & jnp.all(below)


def integrators(equations: Equations) -> Integrators:
    """The branch of stationary states that grows from the uncoupled one.

    Differentiable, forward and reverse, once, by the implicit function theorem.
    """
    dtype = equations.tau.dtype
    tolerance = 1e3 * float(jnp.finfo(dtype).eps)
    full = jnp.full((), 2, dtype)

    def settle(z: Array, strength: Array, least: float) -> tuple[Array, Array]:
        """By Newton's method; and the residual."""

        def improve(carry):
            z, _, count = carry
            value, jacobian = _value_and_jacobian(lambda z: residual(z, strength), z)
            step = jnp.linalg.solve(jacobian, value)
            sizes = jnp.asarray([1.0, 0.5, 0.2, 0.05, 0.01], dtype)
            trials = z[None] - sizes[:, None] * step[None]
            values = jax.vmap(residual, (0, None))(trials, strength)
            errors = jnp.sum(values**2, 1)
            errors = jnp.where(jax.vmap(fixed.allowed)(trials), errors, jnp.inf)
            best = jnp.argmin(jnp.where(jnp.isnan(errors), jnp.inf, errors))
            return trials[best], jnp.max(jnp.abs(values[best])), count + 1

        def going(carry):
            _, error, count = carry
            return (count < 25) & ~(error <= least)

        start = (z, jnp.full((), jnp.inf, dtype), jnp.int32(0))
        z, error, _ = jax.lax.while_loop(going, improve, start)
        return z, error

    def strengthen(carry):
        """Coupling by coupling; half the way where Newton's method fails or leaps elsewhere."""
        z, strength, step, count = carry
        target = jnp.minimum(strength + step, full)
        # Not past the corner.
        target = jnp.where(strength < 1, jnp.minimum(target, 1), target)
        found, error = settle(z, target, 1e-2)
        near = jnp.all(jnp.abs(found - z) <= 1 + 0.5 * jnp.max(jnp.abs(z)))
        good = near & (error <= 1e-2)
        z, strength = jnp.where(good, found, z), jnp.where(good, target, strength)
        return z, strength, jnp.where(good, 1.5, 0.5).astype(dtype) * step, count + 1

    def weak(carry):
        _, strength, step, count = carry
        return (strength < full) & (step > 1e-5) & (count < _MAX_STEPS)

    def residual(z: Array, strength: Array) -> Array:
        return fixed.residual(z, fixed_filter, strength)

    filtered = LowPass(equations.tau, equations.length, _NUM_NODES)
    # No derivative goes through the search, which would be traced twice.
    fixed, fixed_filter = jax.tree.map(jax.lax.stop_gradient, (equations, filtered))
    start = fixed.uncoupled(fixed_filter)
    zero = jnp.zeros((), dtype)
    z, *_ = jax.lax.while_loop(weak, strengthen, (start, zero, full / 16, jnp.int32(0)))
    z, _ = settle(z, full, tolerance)
    z, error = newton_step(lambda z: equations.residual(z, filtered, full), z)
    voltage, frozen, temporal = equations.unpack(z)
    variance = frozen + at_zero(temporal)
    output = equations.output
    return Integrators(
        mean=output.mean(voltage, variance),
        quenched=output.second(voltage, variance, frozen[:, None])[:, 0],
        voltage_mean=voltage,
        voltage_variance=variance,
        voltage_static=frozen,
        residual=jax.lax.stop_gradient(jnp.max(jnp.abs(error))),
        temporal=temporal,
        length=equations.length,
        output=output,
    )


def escape(
    mean: Float[Array, "population population"],
    vQ: Float[Array, "population population"],
    vM: Float[Array, "population population"],
    *,
    drive: Float[Array, " population"],
    tau: Float[Array, " population"],
    threshold: Float[Array, " population"],
    width: Float[Array, " population"],
    rate: Float[Array, " population"],
    hazard: str = "erf",
    white: Float[Array, " population"] | None = None,
    static: Float[Array, " population"] | None = None,
    throw: bool = True,
) -> Integrators:
    """Escape-rate neurons without reset, coupled by delta synapses: rates and covariances.

    tau dV/dt = drive - V, V jumps by a weight (mV) at each spike, and a neuron fires at `rate`
    times Phi((V - threshold) / width) (`hazard="erf"`) or exp of it ("exponential"), in hertz.
    `mean`, `vQ`, `vM`: the statistics of the weights, `[post, pre]` (see `BlockStatistics`);
    `drive`: mV; `white`: density of private white noise in the drive (mV^2 s), `static`: its
    variance over neurons (mV^2). Lags in seconds. To about 1e-9 in float64.

    The state is the one that grows from the uncoupled network as the coupling is turned on, first
    that of means, then that of variances.
    `throw`: raise where there is none; else see `residual`. Raises `ValueError` for an unknown
    hazard. After van Meegen & van Albada (2021).
    """
    if hazard not in ("erf", "exponential"):
        raise ValueError(f'hazard={hazard!r} has no closed form: give "erf" or "exponential".')
    zero = jnp.zeros_like(tau)
    filtered = (tau**2)[:, None] * vQ
    found = _solve(
        Equations(
            output=Nonlinearity(rate, threshold, width, hazard),
            tau=tau,
            drive=drive,
            mean=tau[:, None] * mean,
            smooth=filtered,
            product=(tau**2)[:, None] * vM,
            shot=filtered,
            white=zero if white is None else white,
            static=zero if static is None else static,
        )
    )
    return checked(found, "escape") if throw else found


_solve = eqx.filter_jit(integrators)


def _value_and_jacobian(fn: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    def twice(z: Array) -> tuple[Array, Array]:
        value = fn(z)
        return value, value

    jacobian, value = jax.jacfwd(twice, has_aux=True)(z)
    return value, jacobian
