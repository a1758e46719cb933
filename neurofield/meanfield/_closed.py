"""Networks that have a closed form, found from their description."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofield._numerics import contract
from neurofield.network import Binary, Constant, EscapeLIF, Neuron, Quenched, Rate, WhiteNoise

from ._binary import BinaryEquations, BinaryState, solve_binary
from ._glm import Equations, Integrators, Nonlinearity, integrators
from ._sompolinsky import Sompolinsky, sompolinsky
from ._theory import Theory


class ClosedForm(eqx.Module):
    """Moments of the outputs of a stationary network at leading order, in continuous time.

    - `mean`: `[population]`, in hertz or as they are; `quenched`: the second moment over neurons of
      their time averages.
    - `residual`: the largest relative error of the equations; infinite where the state is one that
      the network leaves (a symmetric one beside others).
    - `solution`: the closed form itself, with the moments of voltages or summed inputs.
    """

    mean: Float[Array, " population"]
    quenched: Float[Array, " population"]
    residual: Float[Array, ""]
    solution: Integrators | BinaryState | Sompolinsky
    time_unit: Float[Array, ""] | None  # of the lags of a `Sompolinsky`, s

    def second(self, lags: Float[Array, " lag"]) -> Float[Array, "population lag"]:
        """E[y(t) y(t + lag)] at lags in seconds; of spikes without their delta at 0."""
        if isinstance(self.solution, Sompolinsky):
            assert self.time_unit is not None
            return self.solution.output_covariance(lags / self.time_unit)[None]
        return self.solution.second(lags)


def closed_form(theory: Theory) -> ClosedForm | None:
    """Of a network of one of the families that have one, else `None`."""
    for family in (rate_network, escape_network, binary_network):
        found = family(theory)
        if found is not None:
            return found
    return None


def rate_network(theory: Theory) -> ClosedForm | None:
    """Of `Rate` units with "tanh", "erf" or the identity; without drive or with white noise."""
    blocks, external = _blocks(theory, "current"), _external(theory)
    neurons = _neurons(theory, Rate)
    if blocks is None or external is None or neurons is None:
        return None
    if any(n.adaptation is not None or n.phi != neurons[0].phi for n in neurons):
        return None
    phi = _phi_name(neurons[0])
    noisy = all(any(isinstance(s, WhiteNoise) for s in d) for d in _sources(theory))
    tau, gain = (_each(theory, neurons, name) for name in ("tau", "gain"))
    mean, vQ, vM = blocks
    drive, white, static = external
    driven = any(isinstance(s, Constant | Quenched) for d in _sources(theory) for s in d)
    if phi in ("tanh", "erf") and len(neurons) == 1 and not driven:
        g = jnp.sqrt(vQ[0, 0]) * gain[0]
        found = sompolinsky(g, phi=phi, sigma2=white[0] * gain[0] ** 2 / (2 * tau[0]))
        zero = jnp.zeros(1, theory.dtype)
        stable = mean[0, 0] * gain[0] * found.mean_slope < 1
        residual = jnp.where(stable, 0, jnp.inf).astype(theory.dtype)
        return ClosedForm(zero, zero, residual, found, tau[0])
    # Without noise the branch that grows from the uncoupled network is at rest, and may not last.
    if phi not in ("erf", "linear") or not noisy:
        return None
    one = jnp.ones_like(tau)
    width = one if phi == "linear" else 1 / (gain * math.sqrt(math.pi / 2))
    height = gain if phi == "linear" else one
    kind = "linear" if phi == "linear" else "rate"
    output = Nonlinearity(height, 0 * one, width, kind)
    shot = jnp.zeros_like(vQ)
    return _integrated(Equations(output, tau, drive, mean, vQ, vM, shot, white, static))


def escape_network(theory: Theory) -> ClosedForm | None:
    """Of `EscapeLIF` neurons without reset, with the hazard "erf" or "exponential"."""
    blocks, external = _blocks(theory, "jump"), _external(theory)
    neurons = _neurons(theory, EscapeLIF)
    if blocks is None or external is None or neurons is None:
        return None
    hazard = neurons[0].hazard
    if hazard not in ("erf", "exponential"):
        return None
    if any(n.resets or n.hazard != hazard for n in neurons):
        return None
    names = ("tau", "rate", "threshold", "width", "rest")
    tau, rate, threshold, width, rest = (_each(theory, neurons, name) for name in names)
    (mean, vQ, vM), (drive, white, static) = blocks, external
    mean, vQ, vM = tau[:, None] * mean, (tau**2)[:, None] * vQ, (tau**2)[:, None] * vM
    output = Nonlinearity(rate, threshold, width, hazard)
    return _integrated(Equations(output, tau, rest + drive, mean, vQ, vM, vQ, white, static))


def binary_network(theory: Theory, order: str = "leading") -> ClosedForm | None:
    """Of `Binary` neurons with the update "glauber", sharp thresholds or Gaussian noise."""
    blocks, external = _blocks(theory, "current"), _external(theory)
    neurons = _neurons(theory, Binary)
    if blocks is None or external is None or neurons is None:
        return None
    if any(isinstance(s, WhiteNoise) for d in _sources(theory) for s in d):
        return None
    for n in neurons:
        if n.update != "glauber" or (n.gain is not None and n.noise != "gaussian"):
            return None
    tau, threshold = (_each(theory, neurons, name) for name in ("tau", "threshold"))
    fresh = jnp.stack(
        [
            jnp.zeros((), theory.dtype) if n.gain is None else 1 / n.gain.astype(theory.dtype) ** 2
            for n in neurons
        ]
    )
    drive, _, static = external
    sizes = jnp.asarray(theory.sizes, theory.dtype)
    found = solve_binary(
        BinaryEquations(*blocks, drive - threshold, tau, static, fresh, sizes), order == "shared"
    )
    return ClosedForm(found.mean, found.quenched, found.residual, found, None)


def _integrated(equations: Equations) -> ClosedForm:
    found = eqx.filter_jit(integrators)(equations)
    return ClosedForm(found.mean, found.quenched, found.residual, found, None)


def _sources(theory: Theory) -> list:
    return [population.drive.sources for population in theory.populations]


def _neurons(theory: Theory, family: type) -> list | None:
    """The neurons, if all are of a family and homogeneous."""
    neurons: list[Neuron] = [population.neuron for population in theory.populations]
    alike = all(isinstance(n, family) for n in neurons)
    scalar = all(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(neurons))
    return neurons if alike and scalar else None


def _each(theory: Theory, neurons: list, name: str) -> Array:
    return jnp.stack([jnp.asarray(getattr(n, name), theory.dtype) for n in neurons])


def _blocks(theory: Theory, channel: str) -> tuple[Array, Array, Array] | None:
    """Mean, vQ and vM between populations, if they couple by `channel` alone, without kernels.

    Delays do not matter: what one stream sends has the same stationary moments later.
    """
    if any(c != channel for _, c in theory.fields):
        return None
    if any(not s.kernel.instantaneous or s.plasticity is not None for s in theory.streams):
        return None
    num = len(theory.populations)
    target = jax.nn.one_hot(jnp.asarray([p for p, _ in theory.fields], jnp.int32), num)
    source = jax.nn.one_hot(jnp.asarray(theory.sources, jnp.int32), num)
    target, source = target.astype(theory.dtype), source.astype(theory.dtype)
    mean, vQ, vM = (
        contract("fa,fs,sb->ab", target, x, source) for x in (theory.mean, theory.vQ, theory.vM)
    )
    return mean, vQ, vM


def _external(theory: Theory) -> tuple[Array, Array, Array] | None:
    """Constant drive, density of white noise, and variance over neurons, of each population."""
    if theory.shared:
        return None
    found = []
    for sources in _sources(theory):
        values = {Constant: 0.0, WhiteNoise: 0.0, Quenched: 0.0}
        for source in sources:
            leaves = jax.tree.leaves(source)
            if type(source) not in values or source.channel != "current":
                return None
            if any(jnp.ndim(leaf) for leaf in leaves):
                return None
            (value,) = leaves
            values[type(source)] += value**2 if isinstance(source, Quenched) else value
        found.append([jnp.asarray(v, theory.dtype) for v in values.values()])
    drive, white, static = (jnp.stack(column) for column in zip(*found, strict=True))
    return drive, white, static


def _phi_name(neuron: Rate) -> str | None:
    """ "tanh", "erf" or "linear"."""
    for name in ("tanh", "erf"):
        if neuron.phi is Rate(phi=name).phi:
            return name
    program = jax.make_jaxpr(neuron.phi)(jnp.zeros(1, neuron.tau.dtype)).jaxpr
    return "linear" if not program.eqns and program.outvars == program.invars else None
