"""The microscopic parameters of a network that the Markov theory reduces."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from neurofield._types import Arrayish, RealScalar
from neurofield._validate import finite, not_negative, positive

_WHITE_TIME = 1e-3  # seconds: the correlation time that the published closure has silently


class Parameters(eqx.Module):
    """A finite network of integrate-and-fire populations with pending spikes at its synapses.

    Each neuron of population q obeys

        dV/dt = drive + sum_E s H / tau - g(V) sum_I s H / tau - leak V + white noise,
        g(V) = (V - E_I) / (threshold - E_I),

    sums over the excitatory and the inhibitory source populations. Above `threshold` it spikes, and
    rests at `reset`, deaf, for an exponentially distributed time. Each spike of population r
    reaches each neuron of q with probability p, independently, and pends there: H counts pending
    spikes, each of which is absorbed at rate 1 / tau. After Chang, Li, Wang, Tao & Xiao (2025).

    **Attributes** (`[post, pre]`: the synapse onto the first population from the second; numbers
    and arrays broadcast)

    - `size`: `[population]`, numbers of neurons; real numbers are taken.
    - `probability`: `[post, pre]`, p, of a spike to reach a neuron.
    - `charge`: `[post, pre]`, s, mV: the voltage charge of one spike in all, at the threshold where
      the source is inhibitory. Not negative: `inhibitory` gives the sign.
    - `tau`: `[post, pre]`, seconds, mean time for which a spike pends.
    - `drive`, `drive_variance`: `[population]`, mean (mV/s) and variance (mV^2/s) of the external
      drive.
    - `refractory_rate`: `[population]`, hertz, the inverse of the mean refractory time; `inf` for
      none.
    - `leak`: `[population]`, hertz; 0 for a perfect integrator.
    - `correlation_time`: `[post, pre]`, seconds, w: what the closure "published" takes for the
      correlation time of the synaptic input; 1 ms in the published program.
    - `inhibitory_reversal`: E_I, mV.
    - `inhibitory`: `[population]`, which populations inhibit (static).
    - `names`: of the populations (static).
    - `threshold`, `reset`: mV (static: they set the unit of voltage and place the grid).
    """

    size: Float[Array, " population"]
    probability: Float[Array, "post pre"]
    charge: Float[Array, "post pre"]
    tau: Float[Array, "post pre"]
    drive: Float[Array, " population"]
    drive_variance: Float[Array, " population"]
    refractory_rate: Float[Array, " population"]
    leak: Float[Array, " population"]
    correlation_time: Float[Array, "post pre"]
    inhibitory_reversal: Float[Array, ""]
    inhibitory: tuple[bool, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    reset: float = eqx.field(static=True)

    def __init__(
        self,
        size: Arrayish,
        probability: Arrayish,
        charge: Arrayish,
        tau: Arrayish,
        *,
        drive: Arrayish = 7000.0,
        drive_variance: Arrayish | None = None,
        refractory_rate: Arrayish = 250.0,
        leak: Arrayish = 0.0,
        correlation_time: Arrayish = _WHITE_TIME,
        inhibitory_reversal: RealScalar = -66.0,
        inhibitory: Sequence[bool] = (False, True),
        names: Sequence[str] | None = None,
        threshold: float = 100.0,
        reset: float = 0.0,
    ):
        """`drive_variance`: by default the number that `drive` is, as for Poisson kicks of 1 mV."""
        count = len(inhibitory)
        values = {
            "size": (size, (count,)),
            "probability": (probability, (count, count)),
            "charge": (charge, (count, count)),
            "tau": (tau, (count, count)),
            "drive": (drive, (count,)),
            "drive_variance": (drive if drive_variance is None else drive_variance, (count,)),
            "refractory_rate": (refractory_rate, (count,)),
            "leak": (leak, (count,)),
            "correlation_time": (correlation_time, (count, count)),
            "inhibitory_reversal": (inhibitory_reversal, ()),
        }
        arrays = {name: jnp.asarray(value) for name, (value, _) in values.items()}
        floating = [x for x in arrays.values() if jnp.issubdtype(x.dtype, jnp.floating)]
        strong = [x for x in floating if not x.weak_type]
        dtype = jnp.result_type(*(strong or [float]))
        for name, (_, shape) in values.items():
            if not _broadcasts(arrays[name].shape, shape):
                raise ValueError(
                    f"{name} must have the shape {shape} of {count} populations, or broadcast to "
                    f"it; got {arrays[name].shape}."
                )
            setattr(self, name, jnp.broadcast_to(arrays[name].astype(dtype), shape))
        self.inhibitory = tuple(bool(x) for x in inhibitory)
        default = ("E", "I") if self.inhibitory == (False, True) else map(str, range(count))
        self.names = tuple(default if names is None else names)
        self.threshold, self.reset = float(threshold), float(reset)
        self._check()

    def _check(self) -> None:
        if len(self.names) != len(self.inhibitory) or len(set(self.names)) != len(self.names):
            raise ValueError(
                f"names must be {len(self.inhibitory)} different names, got {self.names}."
            )
        for name in ("size", "tau", "correlation_time"):
            positive(name, getattr(self, name))
        for name in ("probability", "charge", "drive_variance", "leak"):
            not_negative(name, getattr(self, name))
        for name in ("drive", "inhibitory_reversal", "threshold", "reset"):
            finite(name, getattr(self, name))
        if not isinstance(self.probability, Tracer) and np.max(self.probability) > 1:
            raise ValueError(f"probability must lie in [0, 1], got {np.max(self.probability):.6g}.")
        rate = self.refractory_rate
        if not isinstance(rate, Tracer) and not np.all(np.asarray(rate) > 0):
            raise ValueError(
                f"refractory_rate must be positive (inf: no refractory time), got {rate.tolist()}."
            )
        if not self.reset < self.threshold:
            raise ValueError(f"reset {self.reset} mV is not below threshold {self.threshold} mV.")
        reversal = self.inhibitory_reversal
        if not isinstance(reversal, Tracer) and not reversal < self.threshold:
            raise ValueError(
                f"inhibitory_reversal {reversal} mV is not below threshold {self.threshold} mV."
            )

    @property
    def num_populations(self) -> int:
        return len(self.names)

    @property
    def is_inhibitory(self) -> np.ndarray:
        """`[population]`, boolean."""
        return np.array(self.inhibitory)

    def felt(self, voltage: Float[Array, "*shape"] | np.ndarray) -> Float[Array, "*shape"]:
        """g(V), the share of an inhibitory charge that is felt at a voltage in mV."""
        voltage = jnp.asarray(voltage, self.inhibitory_reversal.dtype)
        return (voltage - self.inhibitory_reversal) / (self.threshold - self.inhibitory_reversal)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False)
    )


_REGIMES = {
    "default": {},
    "gamma": {"p_ei": 0.7},
    "fast": {"p_ei": 0.5},
    "meta": {"p_ei": 1.0},
    "multi": {"tau_r": 0.0, "s_ee": 0.94, "s_ei": 2.61},
    "async": {"s_ei": 3.8},
}
_CAI = {
    **{"tau_r": 2.0, "p_ee": 0.15, "p_ie": 0.5, "p_ei": 0.5, "p_ii": 0.4},
    **{"s_ee": 5.0, "s_ie": 2.0, "s_ei": 4.91, "s_ii": 4.91},
}
_REGIMES |= {
    "hom": {**_CAI, "tau_ee": 4.0},
    "reg": {**_CAI, "tau_ee": 2.0},
    "syn": {**_CAI, "tau_ee": 1.4},
}


def default_parameters(regime: str | None = None) -> Parameters:
    """The published network of 300 excitatory and 100 inhibitory neurons, or one of its regimes.

    - `default` (or `None`): partial synchrony of period 2. The set of Chang et al. (2025).
    - `gamma`: period 1, 57 Hz. `fast`: weak synchrony near a Hopf point. `meta`: bistable.
      These change the probability of the synapse onto E from I, to 0.7, 0.5, 1.0.
    - `multi`: no refractoriness; another set of the same authors.
    - `hom`, `reg`, `syn`: asynchronous, bistable, synchronous; the sets of Cai, Wu, Li, Xiao, Tao
      & Li (2021) with the first network's other constants.
    - `async`: inhibition-dominated, driven by fluctuations.
    """
    regime = "default" if regime is None else regime
    if regime not in _REGIMES:
        raise ValueError(f"regime must be one of {', '.join(_REGIMES)}; got {regime!r}.")
    value = {"tau_ee": 1.4, "tau_ie": 1.2, "tau_r": 4.0}
    value |= {"p_ee": 0.8, "p_ie": 0.8, "p_ei": 0.8, "p_ii": 0.8}
    value |= {"s_ee": 0.95, "s_ie": 1.25, "s_ei": 2.71, "s_ii": 2.45}
    value |= _REGIMES[regime]

    def matrix(name: str) -> list[list[float]]:
        return [[value[f"{name}_{post}{pre}"] for pre in "ei"] for post in "ei"]

    return Parameters(
        size=[300.0, 100.0],
        probability=matrix("p"),
        charge=matrix("s"),
        tau=[[1e-3 * value["tau_ee"], 4.5e-3], [1e-3 * value["tau_ie"], 4.5e-3]],
        refractory_rate=1e3 / value["tau_r"] if value["tau_r"] else np.inf,
    )
