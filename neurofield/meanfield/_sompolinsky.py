"""The chaotic random network of Sompolinsky, Crisanti & Sommers (1988), with or without noise.

The autocovariance c of the inputs moves in a potential: c'' = c - g^2 f(c), f(c) = <phi phi> of two
normals of variance c(0) and covariance c. With y = log(c(0) / c) the conservation of energy reads
(dy/dtau)^2 = 1 - 2 g^2 F(c) / c^2, F the integral of f, and tau(y) is a quadrature.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofield._numerics import as_complex, contract
from neurofield._types import RealScalar
from neurofield._validate import not_negative, positive

from ._gaussian import gauss_legendre, half_normal, newton_step
from ._lags import cosines, lags

_NUM_TABLE = 40  # Chebyshev nodes of f
_NUM_NODES = 80  # of the lag
_LOG_RANGE = 12.0  # of y; beyond, dy/dtau is constant up to exp(-24)


class Sompolinsky(eqx.Module):
    """The stationary state of x' = -x + J phi(x) + xi, J_ij of variance g^2 / N, N to infinity.

    Lags are in units of the time constant. Everything is differentiable in g and sigma2, forward
    and reverse, once.

    - `variance`: of the inputs x, c(0); `output_variance`: <phi^2>; `mean_slope`: <phi'>.
    - `decay_rate`: of the autocovariance at long lags, sqrt(1 - g^2 <phi'>^2).
    - `lyapunov_exponent`: the largest, -1 + sqrt(1 - E0), E0 the ground state of
      -d^2/dtau^2 + 1 - g^2 <phi' phi'>(tau).
    - `participation_ratio`: dimension over N of the outputs phi(x) at equal times, tr^2 C /
      (N tr C^2); `input_participation_ratio`: that of x. Where the activity vanishes (no noise and
      g <= 1) they are the limits of small noise.
    """

    variance: Float[Array, ""]
    output_variance: Float[Array, ""]
    mean_slope: Float[Array, ""]
    decay_rate: Float[Array, ""]
    lyapunov_exponent: Float[Array, ""]
    participation_ratio: Float[Array, ""]
    input_participation_ratio: Float[Array, ""]
    path: "_Path"

    def covariance(self, lags: Float[Array, "*lag"]) -> Float[Array, "*lag"]:
        """<x(t) x(t + lag)>, lags in units of the time constant."""
        return self.variance * jnp.exp(-self.path.depth(jnp.abs(lags)))

    def output_covariance(self, lags: Float[Array, "*lag"]) -> Float[Array, "*lag"]:
        """<phi(x(t)) phi(x(t + lag))>, lags in units of the time constant."""
        y = self.path.depth(jnp.abs(lags))
        return self.variance * jnp.exp(-y) * _lookup(self.path.ratio, _angle(y))


def sompolinsky(g: RealScalar, *, phi: str = "tanh", sigma2: RealScalar = 0.0) -> Sompolinsky:
    """Self-consistent solution of the random rate network x' = -x + J phi(x) + xi.

    `phi`: "tanh", or "erf" for erf(sqrt(pi) x / 2); J_ij are independent normals of variance
    g^2 / N, and the noise has <xi xi'> = 2 sigma2 delta(t - t'), t in units of the time constant.
    Without noise the state is silent for g <= 1 and chaotic above; at g = 1 itself derivatives and
    time scales are infinite, and here only large. In float64 all is good to about 1e-8 for g <= 5;
    at g = 10 with tanh the exponent is to 2e-3, the dimensions to 3e-5, the variance to 1e-9.

    Raises `ValueError` for an unknown `phi`, a g that is not positive and a negative `sigma2`.
    After Sompolinsky, Crisanti & Sommers (1988), Schuecker, Goedeke & Helias (2018) and Clark,
    Abbott & Litwin-Kumar (2023).
    """
    if phi not in ("tanh", "erf"):
        raise ValueError(f'phi={phi!r} has no closed form here: give "tanh" or "erf".')
    positive("g", g)
    not_negative("sigma2", sigma2)
    dtype = jnp.result_type(g, sigma2, 1.0)
    return _solve(jnp.asarray(g, dtype), jnp.asarray(sigma2, dtype), phi)


class _Path(eqx.Module):
    """The way of y = log(c(0) / c) in the lag, by t with y = t^2 + 2 bend t.

    In t the speed is smooth at the start, where y grows as tau^2 without noise and as tau with it.
    """

    bend: Float[Array, ""]
    reach: Float[Array, ""]  # t at the end of the range of y
    integrand: Float[Array, " node"]  # coefficients of dtau/dt in Legendre polynomials
    lags: Float[Array, " node"]  # tau at the nodes of t
    decay_rate: Float[Array, ""]
    ratio: Float[Array, " table"]  # coefficients of f(c) / c
    slope: Float[Array, " table"]  # coefficients of <phi' phi'>

    def depth(self, lag: Float[Array, "*lag"]) -> Float[Array, "*lag"]:
        """y at a lag."""
        nodes = jnp.asarray(lags(_NUM_NODES).nodes, lag.dtype)
        end = self._lag(self.reach)[0]
        fixed = jax.tree.map(jax.lax.stop_gradient, self)
        inside = jnp.minimum(lag, jax.lax.stop_gradient(end))
        held = jax.lax.stop_gradient(inside)

        def improve(_, t):
            value, speed = fixed._lag(t)
            return jnp.clip(t - (value - held) / speed, 0, fixed.reach)

        zero = jnp.zeros(1, lag.dtype)
        knots = jnp.concatenate([zero, fixed.lags, jax.lax.stop_gradient(end)[None]])
        ts = jnp.concatenate([zero, nodes * fixed.reach, fixed.reach[None]])
        t = jax.lax.fori_loop(0, 6, improve, jnp.interp(held, knots, ts))
        value, speed = self._lag(t)
        t = t - (value - inside) / jax.lax.stop_gradient(speed)
        y = t * (t + 2 * self.bend)
        return jnp.where(lag < end, y, _LOG_RANGE + self.decay_rate * (lag - end))

    def _lag(self, t: Float[Array, "*lag"]) -> tuple[Array, Array]:
        """tau(t) and its derivative, by the recurrence of Legendre polynomials."""
        x = 2 * t / self.reach - 1
        # The integral of P_n from -1 is (P_{n+1} - P_{n-1}) / (2 n + 1), with P_{-1} = -1.
        number = jnp.arange(_NUM_NODES, dtype=x.dtype)

        def add(carry, term):
            before, now, total, speed = carry
            n, weight = term
            after = ((2 * n + 1) * x * now - n * before) / (n + 1)
            gain = jnp.where(n == 0, x + 1, (after - before) / (2 * n + 1))
            return (now, after, total + weight * gain, speed + weight * now), None

        start = (jnp.zeros_like(x), jnp.ones_like(x), jnp.zeros_like(x), jnp.zeros_like(x))
        (_, _, total, speed), _ = jax.lax.scan(add, start, (number, self.integrand))
        return total * (self.reach / 2), speed


@eqx.filter_jit
def _solve(g: Array, sigma2: Array, phi: str) -> Sompolinsky:
    dtype, tiny = g.dtype, float(jnp.finfo(g.dtype).eps) ** 0.5
    silent = (sigma2 == 0) & (g <= 1)
    gap = jnp.sqrt(jnp.maximum((1 - g) * (1 + g), tiny))  # decay rate of the linear network
    # Where the activity vanishes, its shape is that of the linear network under small noise.
    c0 = _variance(jnp.where(silent, 2, g), jnp.where(silent, 1, sigma2), phi)
    variance = jnp.where(silent, sigma2 / gap, c0)
    ratio, slope = _tables(c0, phi)
    output, mean_slope = _output(c0, phi)
    # tanh x = x - x^3 / 3 and erf(sqrt(pi) x / 2) = x - pi x^3 / 12: to first order in the variance
    # <phi phi> = c (1 - bow c(0)), and the network stays a linear one.
    bow = 2 if phi == "tanh" else math.pi / 2
    flat = jnp.zeros_like(ratio).at[0].set(1 - bow * variance)
    ratio, slope = jnp.where(silent, flat, ratio), jnp.where(silent, flat, slope)
    mean_slope = jnp.where(silent, 1 - bow / 2 * variance, mean_slope)
    # <phi> = 0 and Price's theorem: f'(0) = <phi'>^2.
    loop = g * mean_slope
    decay = jnp.sqrt(jnp.maximum((1 - loop) * (1 + loop), tiny))
    kick = jnp.where(silent, decay, sigma2 / c0)  # dy/dtau at lag 0
    path = _path(g, kick, decay, ratio, slope)

    grid = lags(_NUM_NODES)
    length = jax.lax.stop_gradient(10 / decay)
    y = path.depth(length * jnp.asarray(grid.nodes, dtype))
    angle = _angle(y)
    bound = _ground_state(g**2 * _lookup(slope, angle), loop**2, length)
    x = jnp.exp(-y)
    outputs = x * _lookup(ratio, angle)
    squares = _squares(outputs, _lookup(ratio, _angle(jnp.zeros_like(decay))), loop, decay, length)
    dimension = squares[0] ** 2 / squares[1]
    squares = _squares(x, jnp.ones_like(decay), loop, decay, length)
    inputs = 1 / (2 * squares[1] - loop**4 * squares[2])
    return Sompolinsky(
        variance=variance,
        output_variance=jnp.where(silent, variance, output),
        mean_slope=mean_slope,
        decay_rate=decay,
        lyapunov_exponent=jnp.sqrt(loop**2 + bound**2) - 1,
        participation_ratio=dimension,
        input_participation_ratio=inputs,
        path=path,
    )


# --- the variance ---------------------------------------------------------------------------------


def _log_cosh(x: Array) -> Array:
    x = jnp.abs(x)
    return x + jnp.log1p(jnp.exp(-2 * x)) - math.log(2)


def _normal(c0: Array) -> tuple[Array, Array]:
    z, w = half_normal(200)
    return jnp.sqrt(c0) * jnp.asarray(z, c0.dtype), jnp.asarray(w, c0.dtype)


def _output(c0: Array, phi: str) -> tuple[Array, Array]:
    """<phi^2> and <phi'>."""
    if phi == "erf":
        k = math.pi / 2
        return 2 / math.pi * jnp.arcsin(k * c0 / (1 + k * c0)), 1 / jnp.sqrt(1 + k * c0)
    x, w = _normal(c0)
    # tanh' = 1 - tanh^2.
    square = jnp.sum(w * jnp.tanh(x) ** 2)
    return square, 1 - square


def _potential(c0: Array, phi: str) -> Array:
    """F(c0) / c0^2, the integral of f from 0 to c0: the variance of an antiderivative of phi."""
    if phi == "erf":
        k = math.pi / 2 / (1 + math.pi / 2 * c0)
        z = k * c0
        rest = -(z**2) / (1 + jnp.sqrt((1 - z) * (1 + z)))
        return 2 / math.pi * (z * jnp.arcsin(z) + rest) / (k * c0**2)
    x, w = _normal(c0)
    y = _log_cosh(x) / c0
    return jnp.sum(w * (y - jnp.sum(w * y)) ** 2)


def _variance(g: Array, sigma2: Array, phi: str) -> Array:
    """c(0): the path that starts with the speed -sigma2 comes to rest at c = 0."""

    def energy(log_c0: Array, g: Array, sigma2: Array) -> Array:
        c0 = jnp.exp(log_c0)
        return 0.5 - g**2 * _potential(c0, phi) - (sigma2 / c0) ** 2 / 2

    fixed = jax.lax.stop_gradient((g, sigma2))
    # f <= 1 above, the variance without coupling below.
    high = jnp.log(g**2 + jnp.sqrt(g**4 + sigma2**2))
    low = jnp.log(jnp.maximum(sigma2, 1e-12 * jnp.exp(high)))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = energy(middle, *fixed) < 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bracket = jax.lax.stop_gradient((low - 1e-3, high + 1e-3))
    low, high = jax.lax.fori_loop(0, 60, halve, bracket)
    return jnp.exp(newton_step(lambda x: energy(x, g, sigma2), (low + high) / 2)[0])


# --- f along the path -----------------------------------------------------------------------------


def _chebyshev() -> tuple[np.ndarray, np.ndarray]:
    """Angles at which f is tabulated, and the matrix from values to coefficients.

    f(c(0) sin angle) is smooth in the angle for any steepness of phi, and f / c and f' are even:
    Chebyshev polynomials of 2 x^2 - 1, x = angle / (pi / 2).
    """
    phase = (np.arange(_NUM_TABLE) + 0.5) * np.pi / _NUM_TABLE
    matrix = np.cos(np.arange(_NUM_TABLE)[:, None] * phase[None, :]) * (2 / _NUM_TABLE)
    matrix[0] /= 2
    return np.cos(phase / 2) * (np.pi / 2), matrix


def _tables(c0: Array, phi: str) -> tuple[Array, Array]:
    """Coefficients of f(c) / c and of f'(c) = <phi' phi'>."""
    angle, matrix = _chebyshev()
    rho = jnp.asarray(np.sin(angle), c0.dtype)
    matrix = jnp.asarray(matrix, c0.dtype)
    if phi == "erf":
        k = math.pi / 2 / (1 + math.pi / 2 * c0)
        c = c0 * rho
        ratio = 2 / math.pi * jnp.arcsin(k * c) / c
        slope = 2 / math.pi * k / jnp.sqrt((1 - k * c) * (1 + k * c))
    else:
        # x, y = sum and difference of independent normals; products of odd, or of even,
        # functions of x and y are even in both.
        z, w = (jnp.asarray(part, c0.dtype) for part in half_normal(96))
        turn = jnp.asarray(np.pi / 4 - angle / 2, c0.dtype)
        scale = jnp.sqrt(c0)
        total = scale * jnp.cos(turn)[:, None, None] * z[None, :, None]
        apart = scale * jnp.sin(turn)[:, None, None] * z[None, None, :]
        x, y = jnp.tanh(total + apart), jnp.tanh(total - apart)
        weight = (w[:, None] * w[None, :])[None]
        ratio = jnp.sum(weight * x * y, (1, 2)) / (c0 * rho)
        slope = jnp.sum(weight * (1 - x**2) * (1 - y**2), (1, 2))
    return contract("nc,c->n", matrix, ratio), contract("nc,c->n", matrix, slope)


def _angle(y: Array) -> Array:
    """arcsin(c / c(0)) of y = log(c(0) / c)."""
    safe = jnp.where(y > 0, y, 1)
    angle = jnp.arctan2(jnp.exp(-safe), jnp.sqrt(-jnp.expm1(-2 * safe)))
    return jnp.where(y > 0, angle, math.pi / 2)


def _lookup(coefficients: Array, angle: Array) -> Array:
    """A tabulated function by Clenshaw's recurrence."""
    z = 2 * (angle * (2 / math.pi)) ** 2 - 1

    def add(carry, weight):
        now, after = carry
        return (weight + 2 * z * now - after, now), None

    zero = jnp.zeros_like(z)
    (now, after), _ = jax.lax.scan(add, (zero, zero), coefficients[:0:-1])
    return coefficients[0] + z * now - after


def _path(g: Array, kick: Array, decay: Array, ratio: Array, slope: Array) -> _Path:
    grid = lags(_NUM_NODES)
    nodes = jnp.asarray(grid.nodes, g.dtype)
    s, w = (jnp.asarray(part, g.dtype) for part in gauss_legendre(24))

    def mean_ratio(y: Array) -> Array:
        """F(c) / c^2, the mean of f / c over the c below, with weight c."""
        inner = y[:, None] - jnp.log(s)[None, :]
        return contract("ks,s->k", _lookup(ratio, _angle(inner)), w * s)

    def speed2(y: Array) -> Array:
        """(dy/dtau)^2: from the end of the path, or near its start from there."""
        far = 1 - 2 * g**2 * mean_ratio(y)
        near = jnp.minimum(y, 1)
        # c = c(0) exp(-y'), y' = near u^2: f has a square root in y where phi is steep.
        inner = near[:, None] * (s**2)[None, :]
        push = (g**2 * _lookup(ratio, _angle(inner)) - 1) * jnp.exp(-2 * inner)
        work = 4 * near * contract("ks,s->k", push, w * s)
        return jnp.where(y < 1, (kick**2 + work) * jnp.exp(2 * near), far)

    # (dy/dtau)^2 ~ kick^2 + rise y near the start; t makes its square root smooth.
    start = jnp.zeros(1, g.dtype)
    rise = 2 * g**2 * (_lookup(ratio, _angle(start)) - 2 * mean_ratio(start))[0]
    bend = kick / jnp.sqrt(jnp.maximum(rise, 16 * float(jnp.finfo(g.dtype).eps)))
    reach = _LOG_RANGE / (bend + jnp.sqrt(bend**2 + _LOG_RANGE))
    t = reach * nodes
    integrand = 2 * (t + bend) / jnp.sqrt(speed2(t * (t + 2 * bend)))
    return _Path(
        bend=bend,
        reach=reach,
        integrand=contract("nk,k->n", jnp.asarray(grid.coefficients, g.dtype), integrand),
        lags=reach * contract("jk,k->j", jnp.asarray(grid.integral, g.dtype), integrand),
        decay_rate=decay,
        ratio=ratio,
        slope=slope,
    )


# --- the largest Lyapunov exponent ----------------------------------------------------------------


def _ground_state(well: Array, floor: Array, length: Array) -> Array:
    """k >= 0, where -psi'' - well psi = -(floor + k^2) psi and psi goes as exp(-k tau) at the end.

    `well` falls to `floor` at long lags. psi' = 0 at lag 0.
    """
    grid = lags(_NUM_NODES)
    stiffness = jnp.asarray(grid.stiffness, well.dtype) / length**2
    last = jnp.asarray(grid.last, well.dtype) / jnp.sqrt(length)
    end = last[:, None] * last[None, :]

    def excess(k: Array, well: Array, floor: Array) -> tuple[Array, Array]:
        """The lowest eigenvalue plus k^2, and its derivative by k.

        By Hellmann and Feynman: the eigenvector is held.
        """
        matrix = stiffness + jnp.diag(floor - well) + k * end
        psi = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))[1][:, 0]
        slope = contract("i,i->", psi, last) ** 2
        return contract("i,ij,j->", psi, matrix, psi) + k**2, slope + 2 * k

    fixed = jax.lax.stop_gradient((well, floor))

    def improve(_, k):
        value, slope = excess(k, *fixed)
        return jnp.maximum(k - value / slope, 0)

    start = jnp.sqrt(jnp.maximum(jnp.max(fixed[0] - fixed[1]), 0))
    k = jax.lax.fori_loop(0, 8, improve, start)
    value, slope = excess(k, well, floor)
    return jnp.maximum(k - value / slope, 0)


# --- the dimension --------------------------------------------------------------------------------


def _squares(
    c: Array, variance: Array, loop: Array, decay: Array, length: Array
) -> tuple[Array, Array, Array]:
    """The variance; the integral (2 pi)^-2 of A(w1) A(w2) |1 - loop^2 r(w1) r*(w2)|^-2 over both
    frequencies, r = 1 / (1 + iw), A the spectrum of c; the same with |r(w1) r(w2)|^2 as well.

    With p = 1 - loop^2 / (1 + i w1), the factor is (1 + w2^2) / |p - i w2|^2, so that the integral
    over w2 is that of two poles: with the Laplace transform L of c, c(0) + Re[(1 - p^2) L(p)] / Re
    p, and Re L(p) / (Re p (1 + w1^2)) for the second. What c(0) gives is integrated over w1 at
    once, and the rest falls off as A / w1^2.
    """
    grid = lags(_NUM_NODES)
    u, du, matrix = (jnp.asarray(part, c.dtype) for part in cosines(_NUM_NODES))
    nodes, weights, last, coefficients = (
        jnp.asarray(part, c.dtype)
        for part in (grid.nodes, grid.weights, grid.last, grid.coefficients)
    )
    w = u * (2 / length)
    # Beyond the nodes c decays as exp(-decay lag).
    end = contract("k,k,k->", last, c, jnp.sqrt(weights))
    cosine = length / 2 * contract("un,nk,k->u", matrix, coefficients, c)
    rest = end * (jnp.cos(2 * u) * decay - jnp.sin(2 * u) * w) / (decay**2 + w**2)
    spectrum = 2 * (cosine + rest)
    low_pass = 1 / (1 + w**2)
    p = jax.lax.complex(1 - loop**2 * low_pass, loop**2 * w * low_pass)
    kernel = jnp.exp(-p[:, None] * as_complex(length * nodes)[None, :])
    laplace = contract("uk,k->u", kernel, as_complex(length * weights * c))
    laplace = laplace + as_complex(end) * jnp.exp(-p * as_complex(length)) / (p + as_complex(decay))
    share = spectrum * du * (2 / length) / (math.pi * p.real)
    first = variance**2 + jnp.sum(share * ((1 - p * p) * laplace).real)
    return variance, first, jnp.sum(share * low_pass * laplace.real)
