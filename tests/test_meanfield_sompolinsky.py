"""The random rate network in closed form against tables, quadratures and its own equations.

Tables: tests/reference/meanfield/scs_theory.csv and scs_autocorr.csv, computed for this project
with independent numpy and scipy code.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special

from neurofield.meanfield._gaussian import bivariate_normal
from neurofield.meanfield._linear import linear, participation_ratio
from neurofield.meanfield._sompolinsky import sompolinsky

REFERENCE = Path(__file__).parent / "reference" / "meanfield"
LAGS = jnp.asarray([0.0, 0.3, 1.0, 4.0, 20.0, 300.0])


@eqx.filter_jit
def covariances(found, lags):
    return found.covariance(lags), found.output_covariance(lags)


def covariance(found, lags, which=0):
    """At any number of lags up to 121, in one compilation."""
    lags = np.asarray(lags, float)
    padded = jnp.asarray(np.pad(lags, (0, 121 - len(lags))))
    return np.asarray(covariances(found, padded)[which])[: len(lags)]


def numbers(found):
    """All scalars and some covariances, as one vector."""
    return jnp.concatenate(
        [
            jnp.stack(
                [
                    found.variance,
                    found.output_variance,
                    found.mean_slope,
                    found.decay_rate,
                    found.lyapunov_exponent,
                    found.participation_ratio,
                    found.input_participation_ratio,
                ]
            ),
            found.covariance(LAGS),
            found.output_covariance(LAGS),
        ]
    )


def forward(phi):
    def both(g, sigma2):
        def vector(g, sigma2):
            return numbers(sompolinsky(g, phi=phi, sigma2=sigma2))

        return vector(g, sigma2), jax.jacfwd(vector, (0, 1))(g, sigma2)

    return jax.jit(both)


SOLVE = {phi: forward(phi) for phi in ("tanh", "erf")}


@pytest.mark.slow
def test_table():
    table = np.genfromtxt(REFERENCE / "scs_theory.csv", delimiter=",", skip_header=1, dtype=None)
    for phi, g, variance, output, slope, _, _, _, exponent, energy, pr, pr_x in table:
        values, _ = SOLVE[str(phi)](float(g), 0.0)
        got = np.asarray(values)[[0, 1, 2, 5, 6]]
        # Seven digits in the table. Its exponents are 2e-6 off (see `test_exponent_by_shooting`),
        # its dimensions at g = 2.5 2e-6: ours stay the same to 1e-11 with twice the nodes.
        np.testing.assert_allclose(got[:3], (variance, output, slope), rtol=6e-7)
        np.testing.assert_allclose(got[3:], (pr, pr_x), rtol=2.5e-6)
        assert float(values[4]) == pytest.approx(exponent, rel=2e-6)
        assert 1 - (1 + float(values[4])) ** 2 == pytest.approx(energy, rel=2e-6)


@pytest.mark.slow
def test_exponent_by_shooting():
    """The ground state by integrating psi'' to where it must decay, on another quadrature of c."""
    for g, sigma2 in ((2.5, 0.0), (1.5, 0.5)):
        found = sompolinsky(g, sigma2=sigma2)
        end, variance = 12 / float(found.decay_rate), float(found.variance)
        phase = np.pi * (np.arange(121) + 0.5) / 121
        z = np.linspace(-9, 9, 181)
        w = np.exp(-(z**2) / 2) / np.sum(np.exp(-(z**2) / 2))
        well = []
        for c in covariance(found, (np.cos(phase) + 1) / 2 * end):
            x = np.sqrt(variance - c) * z[None, :] + np.sqrt(c) * z[:, None]
            well.append(g**2 * (w @ ((1 - np.tanh(x) ** 2) @ w) ** 2))
        n = np.arange(len(phase))
        series = 2 / len(phase) * np.cos(n[:, None] * phase[None, :]) @ np.asarray(well)
        series[0] /= 2
        floor = (g * float(found.mean_slope)) ** 2
        decay = np.sqrt((1 + float(found.lyapunov_exponent)) ** 2 - floor)

        def mismatch(k, end=end, series=series, floor=floor):
            def curve(t, y):
                height = np.polynomial.chebyshev.chebval(2 * t / end - 1, series)
                return [y[1], (floor + k**2 - height) * y[0]]

            psi = integrate.solve_ivp(curve, (0, end), [1, 0], "DOP853", rtol=1e-10, atol=1e-12)
            return psi.y[1, -1] + k * psi.y[0, -1]

        k = optimize.brentq(mismatch, decay * (1 - 1e-4), decay * (1 + 1e-4), xtol=1e-11)
        exponent = np.sqrt(floor + k**2) - 1
        assert float(found.lyapunov_exponent) == pytest.approx(exponent, abs=1e-9)


def test_autocovariance_table():
    table = np.genfromtxt(REFERENCE / "scs_autocorr.csv", delimiter=",", skip_header=1)
    for column, phi, g in ((1, "tanh", 1.5), (2, "tanh", 2.0), (3, "erf", 2.0)):
        got = covariance(sompolinsky(g, phi=phi), table[:, 0])
        # Six digits in the table.
        digits = 10.0 ** (np.floor(np.log10(table[:, column])) - 5)
        np.testing.assert_array_less(np.abs(got - table[:, column]), 0.6 * digits + 1e-8)


@pytest.mark.slow
def test_half_width():
    for phi, g, width in (("tanh", 1.5, 7.846057), ("tanh", 2.0, 5.361019), ("erf", 2.0, 5.108)):
        found = sompolinsky(g, phi=phi)
        half = covariance(found, [width])[0] / float(found.variance)
        assert half == pytest.approx(0.5, abs=2e-7)


@pytest.mark.slow
def test_exact_sensitivities():
    for phi, expected in (("tanh", 2.753868), ("erf", 2.828464)):
        _, (by_g, _) = SOLVE[phi](2.0, 0.0)
        assert float(by_g[0]) == pytest.approx(expected, abs=6e-7)
    _, (by_g, _) = SOLVE["tanh"](2.0, 0.0)
    assert float(by_g[4]) == pytest.approx(0.1310, abs=6e-5)
    values, (by_g, by_noise) = SOLVE["tanh"](1.5, 0.5)
    assert float(by_g[0]) == pytest.approx(1.360636, abs=6e-7)
    assert float(by_noise[0]) == pytest.approx(1.020335, abs=6e-7)
    later = covariance(sompolinsky(1.5, sigma2=0.5), [1.0, 3.0])
    # The note's exponent is 2.4e-7 off: see `test_exponent_by_shooting`.
    np.testing.assert_allclose([values[0], *later], (1.1180959, 0.7064085, 0.2738968), atol=6e-8)
    assert float(values[4]) == pytest.approx(-0.1072518, abs=3e-7)


def test_transitions_with_noise():
    """g where the linear stability, and where the Lyapunov exponent, changes sign."""
    for sigma2, unstable, chaotic, variance in (
        (0.125, 1.273556, 1.475568, 0.741809),
        (0.5, 1.499357, 1.955666, 1.982899),
    ):
        at, (by_g, _) = SOLVE["tanh"](chaotic, sigma2)
        # g is given to six digits behind the point.
        assert abs(float(at[4])) < 6e-7 * float(by_g[4])
        assert chaotic**2 * float(at[1]) == pytest.approx(float(at[0]), abs=2e-6)
        assert float(at[0]) == pytest.approx(variance, abs=6e-7 * (1 + float(by_g[0])))

        def squared_slope(g, sigma2=sigma2):
            found = sompolinsky(g, sigma2=sigma2)
            x, w = special.roots_hermitenorm(120)
            slope = 1 - np.tanh(np.sqrt(float(found.variance)) * x) ** 2
            return g**2 * float(w @ slope**2) / np.sqrt(2 * np.pi)

        assert squared_slope(unstable - 1e-6) < 1 < squared_slope(unstable + 1e-6)


@pytest.mark.parametrize(
    ("phi", "g", "sigma2"),
    [("tanh", 2.0, 0.0), ("erf", 1.3, 0.0), ("tanh", 5.0, 0.1), ("erf", 0.7, 0.4)],
)
def test_equation_of_motion(phi, g, sigma2):
    """c'' = c - g^2 <phi phi>, c'(0) = -sigma2, by differences; <phi phi> by another quadrature."""
    found = sompolinsky(g, phi=phi, sigma2=sigma2)
    h = 0.02
    lags = np.asarray([0.7, 2.0, 6.0])
    c = [covariance(found, lags + i * h) for i in (-2, -1, 0, 1, 2)]
    second = (-c[0] + 16 * c[1] - 30 * c[2] + 16 * c[3] - c[4]) / (12 * h**2)
    x = np.linspace(-9, 9, 601)
    w = np.exp(-(x**2) / 2) / np.sum(np.exp(-(x**2) / 2))
    fn = np.tanh if phi == "tanh" else lambda x: special.erf(np.sqrt(np.pi) / 2 * x)
    outputs = covariance(found, lags, 1)
    for i, here in enumerate(c[2]):
        wide = np.sqrt(float(found.variance) - here) * x
        inner = fn(wide[None, :] + np.sqrt(here) * x[:, None]) @ w
        product = w @ inner**2
        assert outputs[i] == pytest.approx(product, rel=1e-7)
        # The error of the differences is h^4 / 90 times a sixth derivative.
        assert second[i] == pytest.approx(here - g**2 * product, abs=1e-6)
    start = covariance(found, [0.0, 1e-4])
    curvature = float(found.variance - g**2 * found.output_variance)
    # A difference of 1e-5 of covariances of 1e-11.
    assert (start[1] - start[0]) / 1e-4 == pytest.approx(-sigma2 + curvature * 5e-5, abs=1e-6)


@pytest.mark.slow
def test_dimension_is_the_double_integral():
    """The inner integral over frequencies by residues, against both by quadrature."""
    for sigma2 in (0.0, 0.3):
        found = sompolinsky(1.6, sigma2=sigma2)
        angle = (np.arange(240) + 0.5) / 240 * np.pi - np.pi / 2
        w, dw = 0.3 * np.tan(angle), 0.3 / np.cos(angle) ** 2
        # The spectrum of the outputs by direct transform, and of the inputs from it; at high
        # frequencies that of the noise is left, up to 1 / w^4.
        lag, weight = np.polynomial.legendre.leggauss(1200)
        lag, weight = 60 * (lag + 1), 60 * weight
        outputs = np.asarray(eqx.filter_jit(type(found).output_covariance)(found, jnp.asarray(lag)))
        near = np.minimum(np.abs(w), 8)
        spectrum = 2 * np.cos(near[:, None] * lag[None, :]) @ (weight * outputs)
        spectrum = np.where(np.abs(w) < 8, spectrum, 0)
        spectrum = (1.6**2 * spectrum + 2 * sigma2) / (1 + w**2)
        got = participation_ratio(
            jnp.asarray(spectrum),
            jnp.asarray(float(found.mean_slope) / (1 + 1j * w)),
            1.6,
            weights=jnp.asarray(dw),
            inputs=True,
        )
        # The spectrum left out is 2 g^2 sigma2 <phi'^2> / w^4 at most.
        error = 2e-6 + 2 * 1.6**2 * sigma2 * 4 / (3 * np.pi * 8**3)
        expected = float(found.input_participation_ratio)
        assert float(got) == pytest.approx(expected, rel=error)


@pytest.mark.parametrize(
    ("phi", "g", "sigma2"),
    [("tanh", 1.4, 0.0), ("erf", 3.0, 0.0), ("tanh", 0.6, 0.2), ("erf", 1.8, 1e-3)],
)
@pytest.mark.slow
def test_derivatives_are_differences(phi, g, sigma2):
    _, (by_g, by_noise) = SOLVE[phi](g, sigma2)
    h = 1e-4
    high, low = SOLVE[phi](g + h, sigma2)[0], SOLVE[phi](g - h, sigma2)[0]
    np.testing.assert_allclose(by_g, (high - low) / (2 * h), rtol=1e-5, atol=1e-6)
    # One-sided at the edge: to second order.
    h = 1e-4
    ahead = [SOLVE[phi](g, sigma2 + i * h)[0] for i in range(3)]
    slope = (4 * ahead[1] - 3 * ahead[0] - ahead[2]) / (2 * h)
    np.testing.assert_allclose(by_noise, slope, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_silence():
    """Without noise and g <= 1: no activity, the exponent of a linear network, no NaN."""
    for phi in ("tanh", "erf"):
        values, (by_g, by_noise) = SOLVE[phi](0.6, 0.0)
        expected = linear(0.6)
        assert float(values[0]) == 0
        assert not np.any(values[7:])
        assert float(values[4]) == pytest.approx(-0.4, abs=1e-12)
        assert float(values[5]) == pytest.approx(float(expected.participation_ratio), rel=1e-9)
        assert float(by_g[4]) == pytest.approx(1, abs=1e-9)
        assert float(by_noise[0]) == pytest.approx(float(expected.variance), rel=1e-12)
        # The derivatives by the noise against small noise.
        h = 1e-6
        ahead = [SOLVE[phi](0.6, i * h)[0] for i in range(3)]
        slope = (4 * ahead[1] - 3 * ahead[0] - ahead[2]) / (2 * h)
        np.testing.assert_allclose(by_noise, slope, rtol=1e-5, atol=1e-4)
        critical = SOLVE[phi](1.0, 0.0)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(critical))


@pytest.mark.slow
def test_transforms_and_dtypes():
    def fields(g):
        found = sompolinsky(g, sigma2=0.5)
        return found.lyapunov_exponent + found.participation_ratio

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(fields)))(jnp.asarray([0.5, 1.5]))
    for g, value, slope in zip((0.5, 1.5), values, slopes, strict=True):
        expected, (by_g, _) = SOLVE["tanh"](g, 0.5)
        assert float(value) == pytest.approx(float(expected[4] + expected[5]), rel=1e-9)
        assert float(slope) == pytest.approx(float(by_g[4] + by_g[5]), rel=1e-8)
    low = sompolinsky(jnp.float32(2.0))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(eqx.filter(low, eqx.is_array)))
    # Rounding, amplified by the smallness of the exponent and the dimension.
    assert float(low.lyapunov_exponent) == pytest.approx(0.1124582, abs=3e-5)
    assert float(low.participation_ratio) == pytest.approx(0.01974067, rel=1e-4)


def test_errors():
    for bad in ({"g": 0.0}, {"g": 1.0, "sigma2": -1.0}, {"g": 1.0, "phi": "relu"}):
        with pytest.raises(ValueError, match=r"phi|sigma2|g must"):
            sompolinsky(**bad)


def test_bivariate_normal():
    for a, b, rho in ((0.3, 0.3, 0.5), (1.2, -0.4, -0.7), (2.0, 2.0, 0.99), (-1.0, -1.0, 0.0)):
        inner = lambda z, b=b, r=rho: (  # noqa: E731
            special.ndtr(-(b - r * z) / np.sqrt(1 - r**2)) * np.exp(-(z**2) / 2)
        )
        truth = integrate.quad(inner, a, 12, epsabs=1e-14)[0] / np.sqrt(2 * np.pi)
        got = bivariate_normal(*(jnp.asarray(x) for x in (a, b, rho)))
        assert float(got) == pytest.approx(truth, abs=1e-12)
