"""Short-term plasticity of synapses: depression and facilitation by the source's own spikes."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from neurofield._validate import not_negative

from ._neuron import Parameter, Shape, parameter


class TsodyksMarkramState(eqx.Module):
    utilization: Float[Array, "*shape"]  # left over from earlier spikes, 0 at rest
    resources: Float[Array, "*shape"]  # the share that is available, 1 at rest


class TsodyksMarkram(eqx.Module):
    """Each spike releases the share u of the resources x that are left.

    At a spike u jumps first, by U (1 - u), then u x is released and lost to x; in between u decays
    to 0 with the time constant `facilitation` and x recovers to 1 with `recovery` (seconds; 0 takes
    no time: without facilitation u = U at every spike, without depression x = 1). The first spike
    releases U. State and output are one a source neuron; all its synapses share them.

    After Tsodyks, Pawelzik & Markram (1998); the u of Mongillo, Barak & Tsodyks (2008), which rests
    at U, is this one after its jump: its mean is U (1 + facilitation r) / (1 + U facilitation r) at
    Poisson spikes of rate r.

    Raises `ValueError` for a utilization outside (0, 1] and negative time constants.
    """

    utilization: Parameter = parameter(0.5)  # U, in (0, 1]
    recovery: Parameter = parameter(0.2)  # s
    facilitation: Parameter = parameter(0.0)  # s

    def __check_init__(self):
        not_negative("recovery", self.recovery)
        not_negative("facilitation", self.facilitation)
        share = self.utilization
        if not isinstance(share, Tracer):
            values = np.asarray(share)
            if not ((values > 0) & (values <= 1)).all():
                raise ValueError(f"utilization must lie in (0, 1], got {values}.")

    def init(self, shape: Shape, dtype) -> TsodyksMarkramState:
        return TsodyksMarkramState(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))

    def step(
        self, state: TsodyksMarkramState, spikes: Float[Array, "*shape"], dt: float
    ) -> tuple[TsodyksMarkramState, Float[Array, "*shape"]]:
        """The state after a step at whose end there were `spikes` (0 or 1), and what they released.

        Release counts in spikes: multiply by the weight.
        """
        u = state.utilization * _decay(self.facilitation, dt)
        x = 1 - (1 - state.resources) * _decay(self.recovery, dt)
        jump = self.utilization * (1 - u)
        released = spikes * (u + jump) * x
        return TsodyksMarkramState(u + spikes * jump, x - released), released


def _decay(tau: Array, dt: float) -> Array:
    """exp(-dt / tau), and 0 at tau = 0 with a finite derivative."""
    positive = tau > 0
    return jnp.where(positive, jnp.exp(-dt / jnp.where(positive, tau, 1)), 0)
