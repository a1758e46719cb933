"""Mean-field equations solved with NumPy and SciPy alone, in other ways than neurofield's.

Nothing here imports neurofield. Times are in units of the time constant unless seconds are said.
"""

import numpy as np
from scipy import integrate, linalg, optimize, special

_Z = np.linspace(-9, 9, 181)  # the trapezoidal rule is spectral for smooth functions of a normal
_W = np.exp(-(_Z**2) / 2) / np.sum(np.exp(-(_Z**2) / 2))

ROOT = np.sqrt(np.pi) / 2
PHI = {
    # phi, its derivative, and the integral of it.
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2, lambda x: np.logaddexp(x, -x)),
    "erf": (
        lambda x: special.erf(ROOT * x),
        lambda x: np.exp(-np.pi * x**2 / 4),
        lambda x: x * special.erf(ROOT * x) + 2 / np.pi * np.exp(-np.pi * x**2 / 4),
    ),
}


def product(f, variance, c):
    """<f(x) f(y)>, both of `variance`, of covariance c: an average over what they share."""
    x = np.sqrt(max(variance - c, 0)) * _Z[None] + np.sqrt(c) * _Z[:, None]
    return float(_W @ (f(x) @ _W) ** 2)


def random_rates(phi: str, g: float, sigma2: float, lags=(1.0, 3.0)) -> dict[str, float]:
    """x' = -x + J phi(x) + noise: energy conservation, then a walk along the orbit.

    Sompolinsky, Crisanti & Sommers (1988); Schuecker, Goedeke & Helias (2018).
    """
    f, slope, primitive = PHI[phi]

    def potential(variance, c):
        mean = _W @ primitive(np.sqrt(variance) * _Z)
        return -(c**2) / 2 + g**2 * (product(primitive, variance, c) - mean**2)

    def energy(variance):
        return sigma2**2 / 2 + potential(variance, variance)

    # Without noise 0 is a root too.
    low = next(v for v in np.geomspace(1e-3, 1, 200) if energy(v) > 0)
    c0 = optimize.brentq(energy, low, 4 * g**2 + 2 * sigma2 + 4, xtol=1e-14)
    nodes = c0 * (1 + np.cos(np.pi * (np.arange(80) + 0.5) / 80)) / 2

    def series(values):
        return np.polynomial.chebyshev.Chebyshev.fit(nodes, values, 79, domain=[0, c0])

    second = series([product(f, c0, c) for c in nodes])
    well = series([g**2 * product(slope, c0, c) for c in nodes])
    below = series([potential(c0, c) for c in nodes])

    def fall(_, y):
        return [y[1], y[0] - g**2 * second(y[0])]

    def slide(_, y):
        c = max(y[0], 0.0)
        return [-np.sqrt(max(-2 * below(c), 0.0))]

    # By the force first, where the speed is a small root; then by the speed, which is stable.
    end, handover = 80.0, 0.5
    options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-13, "dense_output": True}
    first = integrate.solve_ivp(fall, (0, handover), [c0, -sigma2], **options).sol
    later = integrate.solve_ivp(slide, (handover, end), [first(handover)[0]], **options).sol

    def covariance(t):
        return np.where(t < handover, first(np.minimum(t, handover))[0], later(t)[0])

    def ground(num):
        h = end / num
        t = (np.arange(num) + 0.5) * h
        diagonal = 1 - well(np.clip(covariance(t), 0, c0)) + 2 / h**2
        diagonal[0] -= 1 / h**2  # even
        off = np.full(num - 1, -1 / h**2)
        return linalg.eigh_tridiagonal(
            diagonal, off, eigvals_only=True, select="i", select_range=(0, 0)
        )[0]

    coarse, fine = ground(4000), ground(8000)
    found = {
        "variance": c0,
        "output variance": product(f, c0, c0),
        "lyapunov exponent": -1 + np.sqrt(1 - (4 * fine - coarse) / 3),
    }
    return found | {f"covariance at {t:g}": float(covariance(np.array([t]))[0]) for t in lags}


def linear(g, coupling, size, networks, seed) -> dict[str, tuple[float, float]]:
    """x' = -x + J x + noise of <xi xi> = 2 delta: Lyapunov equations of drawn networks.

    Of two sizes, extrapolated: what is left out is of the order of 1 / N.
    """
    rng, rows = np.random.default_rng(seed), []

    def one(size):
        weights = coupling / size + g / np.sqrt(size) * rng.standard_normal((size, size))
        covariance = linalg.solve_continuous_lyapunov(np.eye(size) - weights, 2 * np.eye(size))
        own = np.diag(covariance).mean()
        ratio = own**2 * size / np.sum(covariance**2)
        return np.array([own, ratio, size * covariance.mean()])

    rows = [2 * one(size) - (one(size // 2) + one(size // 2)) / 2 for _ in range(networks)]
    return spread(("variance", "participation ratio / N", "N Var X"), rows)


def linear_steps(g, coupling, dt) -> dict[str, float]:
    """The same in exponential Euler steps: integrals over the frequencies of the grid."""
    w = np.linspace(-np.pi, np.pi, 200_001)[:-1]
    transfer = (1 - np.exp(-dt)) / (np.exp(1j * w) - np.exp(-dt))
    power = np.abs(transfer) ** 2
    spectrum = power * 2 / dt / (1 - g**2 * power)
    return {
        "variance": np.mean(spectrum),
        "N Var X": np.mean(spectrum / np.abs(1 - coupling * transfer) ** 2),
    }


def spread(names, rows) -> dict[str, tuple[float, float]]:
    """Means over the rows and their standard errors."""
    rows = np.asarray(rows, float)
    error = rows.std(0, ddof=1) / np.sqrt(len(rows))
    return {n: (float(m), float(e)) for n, m, e in zip(names, rows.mean(0), error, strict=True)}


def two_time(phi, g, coupling, drive, num_steps, dt, times) -> dict[str, float]:
    """The exact two-time equations of the map of exponential Euler steps, by quadratures.

    x(k + 1) = a x(k) + (1 - a) h(k), h(k) = drive(t_k) + coupling <phi(x(k))> + a Gaussian field
    of covariance g^2 <phi(x(k)) phi(x(l))>, x(0) standard normal. `drive`: at the steps' middles.
    """
    f = PHI[phi][0]
    a = np.exp(-dt)
    node, weight = special.roots_hermitenorm(48)
    weight = weight / weight.sum()
    mean = np.zeros(num_steps + 1)
    x = np.zeros((num_steps + 1, num_steps + 1))  # covariance of x
    cross = np.zeros((num_steps + 1, num_steps))  # of x(k) with the field at l
    field = np.zeros((num_steps, num_steps))
    x[0, 0] = 1.0
    out_mean, out = np.zeros(num_steps + 1), np.zeros((num_steps + 1, num_steps + 1))

    def outputs(k):
        sd = np.sqrt(np.diag(x)[: k + 1])
        one = mean[k] + sd[k] * node
        out_mean[k] = weight @ f(one)
        for l in range(k + 1):
            rho = np.clip(x[k, l] / (sd[k] * sd[l]), -1, 1)
            other = mean[l] + sd[l] * (rho * node[:, None] + np.sqrt(1 - rho**2) * node[None])
            out[k, l] = out[l, k] = weight @ (f(one)[:, None] * f(other)) @ weight

    for k in range(num_steps):
        outputs(k)
        field[k, : k + 1] = field[: k + 1, k] = g**2 * out[k, : k + 1]
        # x(0) does not know the field; x(l) = a x(l - 1) + (1 - a) h(l - 1).
        for l in range(1, k + 1):
            cross[l, k] = a * cross[l - 1, k] + (1 - a) * field[l - 1, k]
        mean[k + 1] = a * mean[k] + (1 - a) * (drive(k) + coupling * out_mean[k])
        x[k + 1, : k + 1] = a * x[k, : k + 1] + (1 - a) * cross[: k + 1, k]
        x[: k + 1, k + 1] = x[k + 1, : k + 1]
        cross[k + 1, : k + 1] = a * cross[k, : k + 1] + (1 - a) * field[k, : k + 1]
        x[k + 1, k + 1] = a * x[k, k + 1] + (1 - a) * cross[k + 1, k]
    outputs(num_steps)
    found = {}
    for step in times:
        found[f"mean at step {step}"] = out_mean[step]
        found[f"variance at step {step}"] = out[step, step] - out_mean[step] ** 2
    first, last = times[0], times[-1]
    found[f"covariance of steps {first}, {last}"] = (
        out[first, last] - out_mean[first] * out_mean[last]
    )
    return found


def orthant(a, rho):
    """P(z1 > a, z2 > a) of standard normals of correlation rho (Owen 1956)."""
    return special.ndtr(-a) - 2 * special.owens_t(a, np.sqrt((1 - rho) / (1 + rho)))


def escape(hazard, nu0, threshold, width, tau, drive, mean, vQ) -> dict[str, float]:
    """One population with escape noise and delta synapses: energy conservation, seconds, mV.

    van Meegen & van Albada (2021). `mean`, `vQ`: sums over a neuron's inputs of jumps and squares.
    """

    def rate(mu, variance):
        if hazard == "erf":
            return nu0 * special.ndtr((mu - threshold) / np.sqrt(width**2 + variance))
        return nu0 * np.exp((mu - threshold) / width + variance / (2 * width**2))

    def second(mu, variance, c):
        if hazard == "erf":
            total = width**2 + variance
            return nu0**2 * orthant((threshold - mu) / np.sqrt(total), c / total)
        return rate(mu, variance) ** 2 * np.exp(c / width**2)

    def parts(variance):
        high = nu0 if hazard == "erf" else 1e4
        nu = optimize.brentq(
            lambda nu: rate(drive + tau * mean * nu, variance) - nu, 0, high, xtol=1e-13
        )
        mu = drive + tau * mean * nu

        def excess(c):
            return c - tau**2 * vQ * second(mu, variance, c)

        static = optimize.brentq(excess, 0, variance * (1 - 1e-9), xtol=1e-14, rtol=1e-14)
        return nu, mu, static

    def balance(variance):
        nu, mu, static = parts(variance)
        area = integrate.quad(
            lambda c: second(mu, variance, c), static, variance, epsabs=1e-12, epsrel=1e-12
        )[0]
        kick = (tau * vQ * nu / 2) ** 2 / 2  # tau C'(0+) = -tau vQ nu / 2
        return kick - (variance**2 - static**2) / 2 + tau**2 * vQ * area

    tries = np.geomspace(1e-2, 1e4, 240)
    values = []
    for v in tries:
        try:
            values.append(balance(v))
        except ValueError:  # no static part below so small a variance
            values.append(np.nan)
    values = np.asarray(values)
    at = np.flatnonzero((values[:-1] > 0) & (values[1:] < 0))[0]
    variance = optimize.brentq(balance, tries[at], tries[at + 1], xtol=1e-12, rtol=1e-14)
    nu, mu, static = parts(variance)
    return {
        "rate": nu,
        "sd of rates": np.sqrt(second(mu, variance, static) - nu**2),
        "mean voltage": mu,
        "variance of voltage": variance,
        "static variance": static,
    }


def binary(mean, vQ, drive, threshold) -> dict[str, float]:
    """Balanced binary populations at leading order (van Vreeswijk & Sompolinsky 1998)."""
    mean, vQ, drive = np.asarray(mean), np.asarray(vQ), np.asarray(drive)
    num = len(drive)

    def equations(v):
        m, q = special.expit(v[:num]), special.expit(v[num:]) * special.expit(v[:num])
        sd2 = vQ @ m
        a = (threshold - mean @ m - drive) / np.sqrt(sd2)
        return np.concatenate([special.ndtr(-a) - m, orthant(a, vQ @ q / sd2) - q])

    # The dynamics of the means leads near the state; q = m, a frozen network, is another one.
    m = np.full(num, 0.5)
    for _ in range(20_000):
        m += 2e-3 * (special.ndtr((mean @ m + drive - threshold) / np.sqrt(vQ @ m)) - m)
    start = np.concatenate([special.logit(m), special.logit(np.minimum(m + 0.05, 0.9))])
    found = optimize.root(equations, start, tol=1e-13)
    m = special.expit(found.x[:num])
    q = special.expit(found.x[num:]) * m
    if np.abs(equations(found.x)).max() < 1e-10:
        return {f"mean {n}": v for n, v in zip("EI", m, strict=True)} | {
            f"q {n}": v for n, v in zip("EI", q, strict=True)
        }
    raise RuntimeError("no state of the binary network was found")


def siegert(mean, sd, *, tau, threshold, reset, refractory, synaptic_tau=0.0):
    """Rate in hertz by adaptive quadrature; exponential synapses by Fourcaud & Brunel (2002)."""
    shift = np.sqrt(2) * abs(special.zeta(0.5)) / 2 * np.sqrt(synaptic_tau / tau)
    low, high = ((edge - mean) / sd + shift for edge in (reset, threshold))
    area = integrate.quad(
        lambda x: special.erfcx(-x), low, high, epsabs=0, epsrel=1e-12, limit=400
    )[0]
    return 1 / (refractory + tau * np.sqrt(np.pi) * area)


def lif(weight, square, mean, variance, start, **cell) -> np.ndarray:
    """Self-consistent rates of diffusion theory, by MINPACK's hybrid method."""
    tau = cell["tau"]

    def excess(log_rate):
        rate = np.exp(log_rate)
        m, s = mean + tau * weight @ rate, np.sqrt(variance + tau * square @ rate)
        return np.log([siegert(*x, **cell) for x in zip(m, s, strict=True)]) - log_rate

    found = optimize.root(excess, np.log(start), tol=1e-13)
    if np.abs(excess(found.x)).max() > 1e-10:
        raise RuntimeError("no self-consistent rates were found")
    return np.exp(found.x)
