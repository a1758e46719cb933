"""What every neuron that fires at random, with conductances or with gates has in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield.network._conductance_lif import ConductanceLIF
from neurofield.network._escape import EscapeLIF
from neurofield.network._glm import GLM
from neurofield.network._hodgkin_huxley import HodgkinHuxley
from neurofield.network._izhikevich import Izhikevich
from neurofield.network._markov_lif import MarkovLIF
from neurofield.network._neuron import dtype_of

# Parameters of two neurons, and input[channel] that makes both fire. Where spikes are drawn, the
# rectified hazard at so high a rate leaves nothing to chance.
SURE = {"hazard": "linear", "rate": 1e9}
FAMILIES = {
    "EscapeLIF": (EscapeLIF, {"tau": [0.01, 0.02], "refractory": [0.0, 3e-3]}, SURE, [20.0, 9.0]),
    "GLM": (
        GLM,
        {"history": [[-3.0, -2.0], [-0.1, 0.3]], "history_tau": [[0.01, 0.02], [0.05, 0.1]]},
        SURE,
        [1.0],
    ),
    "ConductanceLIF": (ConductanceLIF, {"leak": [8.0, 10.0]}, {}, [100.0, 4.0, 5.0]),
    "Izhikevich": (Izhikevich, {"a": [0.02, 0.1], "increment": [8.0, 2.0]}, {}, [12.0, 50.0]),
    "HodgkinHuxley": (HodgkinHuxley, {"potassium": [5e3, 7e3]}, {}, [400.0, 5.0, 8.0]),
    "MarkovLIF": (
        MarkovLIF,
        {"leak": [0.0, 20.0], "threshold": [90.0, 100.0]},
        {"refractory": 0.0},
        [4000.0, 3000.0, 1000.0],
    ),
}
families = pytest.mark.parametrize("family", FAMILIES)


def run(neuron, state, input, num_steps=400):
    def step(state, _):
        state, output = neuron.step(jax.random.key(1), state, input, 1e-4)
        return state, (state, output)

    return jax.jit(lambda state: jax.lax.scan(step, state, length=num_steps)[1])(state)


def make(family, which=slice(None), dtype=jnp.float64):
    make, arrays, fixed, values = FAMILIES[family]
    arrays = {name: jnp.asarray(value, dtype)[..., which] for name, value in arrays.items()}
    return make(**arrays, **fixed), jnp.asarray(values, dtype)


@families
def test_a_heterogeneous_population_is_its_neurons_side_by_side(family):
    neuron, values = make(family)
    start = neuron.init(jax.random.key(0), (2,))
    together = run(neuron, start, jnp.stack([values] * 2, axis=1))
    assert (together[1].value.sum(0) >= 1).all()
    traces = jax.tree.leaves(together)
    assert any(not np.array_equal(x[..., 0], x[..., 1]) for x in traces)
    for i in range(2):
        one, _ = make(family, i if family != "GLM" else slice(i, i + 1))
        alone = run(one, jax.tree.map(lambda x, i=i: x[..., i], start), values)
        for ours, theirs in zip(traces, jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[..., i], theirs, rtol=1e-11, atol=1e-11)


@families
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_dtype_of_the_parameters_is_kept(family, dtype):
    neuron, values = make(family, dtype=dtype)
    assert dtype_of(neuron) == dtype
    state = neuron.init(jax.random.key(0), (2,))
    assert (neuron.initial_output(state) == jnp.zeros(2, dtype)).all()
    states, output = run(neuron, state, jnp.stack([values] * 2, axis=1))
    for leaf in jax.tree.leaves((state, neuron.initial_output(state), states, output)):
        assert leaf.dtype == dtype
        assert np.isfinite(leaf).all()
    assert set(np.unique(output.value)) == {0, 1}
    assert np.all(np.asarray(neuron.max_dt()) > 0)


@families
def test_defaults_run_for_one_neuron_and_for_a_sheet_of_them(family):
    neuron = FAMILIES[family][0]()
    assert neuron.kind == "spike"
    for shape in ((), (2, 3)):
        state = neuron.init(jax.random.key(0), shape)
        input = jnp.zeros((len(neuron.channels), *shape))
        state, output = neuron.step(jax.random.key(0), state, input, 1e-4)
        assert {leaf.shape for leaf in jax.tree.leaves((state, output))} - {(0, *shape)} == {shape}


def test_a_glm_with_history_runs_on_a_sheet():
    neuron = GLM(history=jnp.array([-1.0, 0.5]), history_tau=jnp.array([0.01, 0.1]))
    state = neuron.init(jax.random.key(0), (2, 3))
    state, output = neuron.step(jax.random.key(0), state, jnp.zeros((1, 2, 3)), 1e-4)
    assert state.history.shape == (2, 2, 3)
    assert output.value.shape == (2, 3)


@pytest.mark.parametrize("family", [EscapeLIF, GLM])
def test_an_unknown_hazard_is_refused(family):
    with pytest.raises((ValueError, TypeError), match="softplus"):
        family(hazard="cubic")
    quadratic = family(hazard=jnp.square, rate=7.0)
    state = quadratic.init(jax.random.key(0), ())
    if family is GLM:
        _, output = quadratic.step(jax.random.key(0), state, jnp.array([3.0]), 1e-6)
        np.testing.assert_allclose(output.intensity, 63, rtol=1e-4)
