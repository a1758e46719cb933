"""Short-term plasticity against the closed forms of regular and Poisson spike trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from neurofield.network._plasticity import TsodyksMarkram

DT = 1e-3
FACILITATING = TsodyksMarkram(0.15, 0.2, 0.6)
DEPRESSING = TsodyksMarkram(0.5, 0.8)


def release(plasticity, spikes, dt=DT):
    def step(state, n):
        return plasticity.step(state, n, dt)

    state = plasticity.init(spikes.shape[1:], spikes.dtype)
    return jax.jit(lambda s, n: jax.lax.scan(step, s, n))(state, spikes)[1]


def test_a_regular_train_releases_the_closed_form():
    # Every 50 ms: u and x go through affine maps, iterated here by hand.
    spikes = np.zeros((1000, 1))
    spikes[49::50] = 1
    for plasticity in (FACILITATING, DEPRESSING):
        share, recovery, facilitation = (
            float(x) for x in (plasticity.utilization, plasticity.recovery, plasticity.facilitation)
        )
        found = release(plasticity, jnp.asarray(spikes))[:, 0]
        keep = np.exp(-0.05 / facilitation) if facilitation else 0.0
        left = np.exp(-0.05 / recovery)
        u, x, wanted = 0.0, 1.0, []
        for _ in range(20):
            u, x = u * keep, 1 - (1 - x) * left
            u += share * (1 - u)
            wanted.append(u * x)
            x *= 1 - u
        np.testing.assert_allclose(found[49::50], wanted, rtol=1e-12)
        assert (np.delete(found, np.arange(49, 1000, 50)) == 0).all()
        # Stationary: u = U / (1 - (1 - U) keep), x = (1 - left) / (1 - (1 - u) left).
        u = share / (1 - (1 - share) * keep)
        settled = u * (1 - left) / (1 - (1 - u) * left)
        long = release(plasticity, jnp.tile(jnp.asarray(spikes), (20, 1)))
        np.testing.assert_allclose(long[-1, 0], settled, rtol=1e-9)
        # The first spike meets full resources and releases U.
        np.testing.assert_allclose(found[49], share, rtol=1e-14)


def test_irregular_spikes_as_the_differential_equations():
    # The equations of Tsodyks, Pawelzik & Markram (1998) integrated between spikes.
    steps = np.array([12, 15, 16, 80, 300])
    spikes = np.zeros((400, 1))
    spikes[steps] = 1
    found = release(FACILITATING, jnp.asarray(spikes))[steps, 0]
    share, recovery, facilitation = 0.15, 0.2, 0.6
    state, before, wanted = np.array([0.0, 1.0]), 0.0, []
    for end in (steps + 1) * DT:
        state = solve_ivp(
            lambda t, y: [-y[0] / facilitation, (1 - y[1]) / recovery],
            (before, end),
            state,
            rtol=1e-11,
            atol=1e-13,
        ).y[:, -1]
        state[0] += share * (1 - state[0])
        wanted.append(state[0] * state[1])
        state[1] -= wanted[-1]
        before = end
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_means_over_poisson_trains():
    # Of independent spikes the means obey closed recursions: u always, x where u = U.
    p, num, steps = 0.02, 4000, 400
    spikes = jax.random.bernoulli(jax.random.key(0), p, (steps, num)).astype(float)

    def last(plasticity):
        def step(state, n):
            return plasticity.step(state, n, DT)[0], None

        return jax.lax.scan(step, plasticity.init((num,), float), spikes)[0]

    u = np.asarray(jax.jit(lambda: last(FACILITATING).utilization)())
    x = np.asarray(jax.jit(lambda: last(DEPRESSING).resources)())
    mean_u, mean_x = 0.0, 1.0
    for _ in range(steps):
        mean_u *= np.exp(-DT / 0.6)
        mean_u += p * 0.15 * (1 - mean_u)
        mean_x = (1 - (1 - mean_x) * np.exp(-DT / 0.8)) * (1 - p * 0.5)
    for found, mean in ((u, mean_u), (x, mean_x)):
        assert abs(found.mean() - mean) < 4 * found.std() / np.sqrt(num)
        assert found.std() > 0.01


def test_mean_field_of_a_constant_rate():
    # Fractions of spikes are rates: Mongillo, Barak & Tsodyks (2008), to first order in r dt.
    rate, dt = 20.0, 1e-5
    share, recovery, facilitation = 0.15, 0.2, 0.6
    released = release(FACILITATING, jnp.full((600_000, 1), rate * dt), dt)[-1, 0]
    u = share * (1 + facilitation * rate) / (1 + share * facilitation * rate)
    x = 1 / (1 + u * recovery * rate)
    np.testing.assert_allclose(released / dt, u * x * rate, rtol=2 * rate * dt)


def test_time_constants_of_zero_take_no_time():
    spikes = jnp.asarray([1.0, 1.0, 0.0, 1.0])[:, None]
    both = release(TsodyksMarkram(0.4, 0.0, 0.0), spikes)
    np.testing.assert_allclose(both, 0.4 * spikes)
    gradient = jax.grad(lambda t: release(TsodyksMarkram(0.4, 0.3, t), spikes).sum())(0.0)
    assert jnp.isfinite(gradient)


def test_gradients_equal_finite_differences():
    spikes = jnp.asarray(np.random.default_rng(0).random((100, 2)) < 0.1, float)
    params = jnp.asarray([0.3, 0.1, 0.2])
    loss = jax.jit(lambda p: jnp.sum(release(TsodyksMarkram(*p), spikes) ** 2))
    found = jax.jit(jax.grad(loss))(params)
    for i in range(3):
        h = 1e-6 * jnp.eye(3)[i]
        wanted = (loss(params + h) - loss(params - h)) / 2e-6
        assert abs(wanted) > 1e-2
        np.testing.assert_allclose(found[i], wanted, rtol=1e-6)


def test_heterogeneous_sources_and_float32():
    spikes = jnp.asarray(np.random.default_rng(0).random((60, 2)) < 0.2, jnp.float32)
    shares = jnp.asarray([0.2, 0.7], jnp.float32)
    both = release(TsodyksMarkram(shares, 0.1, 0.3), spikes)
    assert both.dtype == jnp.float32
    for i in range(2):
        one = release(TsodyksMarkram(shares[i], 0.1, 0.3), spikes[:, i : i + 1])
        np.testing.assert_allclose(both[:, i : i + 1], one, rtol=1e-6)
        wide = release(
            TsodyksMarkram(float(shares[i]), 0.1, 0.3), spikes[:, i : i + 1].astype(float)
        )
        np.testing.assert_allclose(one, wide, rtol=1e-5)


def test_impossible_parameters_are_refused():
    for share in (0.0, -0.1, 1.2, np.nan):
        with pytest.raises(ValueError, match="utilization must lie in"):
            TsodyksMarkram(share)
    with pytest.raises(ValueError, match="recovery must be finite and not negative"):
        TsodyksMarkram(0.5, -0.1)
    with pytest.raises(ValueError, match="facilitation"):
        TsodyksMarkram(0.5, 0.1, np.inf)
