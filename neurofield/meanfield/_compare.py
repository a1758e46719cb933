"""`compare_features`: what single features of a network do to its statistics."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from neurofield.network import Network

from ._diagnostics import _at_zero
from ._solution import Solution
from ._solve import solve
from ._switch import FEATURES

_QUANTITIES = ("mean", "sd of neurons", "input noise", "correlation time", "population noise")

# A feature of the theory, not of the network.
_COLOUR = "colour"


class FeatureComparison(eqx.Module):
    """Statistics of a network as it is and with features switched off; `print` shows the table.

    - `value`, `error`: `[variant, quantity, population]` and standard errors.
    - `change`, `change_error`: the same less the first variant, the network as it is; the variants
      share random numbers, so that changes are known better than values.
    - `variants`, `quantities`, `populations`: names (static). Quantities are the mean output, the
      standard deviation of the neurons' means, the root of the spectral density at frequency zero
      of a population's first field and of the mean of the population, and the field's correlation
      time (s): half the integral of its correlation.
    """

    value: Float[np.ndarray, "variant quantity population"]
    error: Float[np.ndarray, "variant quantity population"]
    change: Float[np.ndarray, "variant quantity population"]
    change_error: Float[np.ndarray, "variant quantity population"]
    variants: tuple[str, ...] = eqx.field(static=True)
    quantities: tuple[str, ...] = eqx.field(static=True)
    populations: tuple[str, ...] = eqx.field(static=True)

    def table(self) -> list[dict[str, Any]]:
        """A row for each variant, quantity and population."""
        return [
            {
                "variant": variant,
                "population": population,
                "quantity": quantity,
                "value": float(self.value[i, j, k]),
                "error": float(self.error[i, j, k]),
                "change": float(self.change[i, j, k]),
                "change_error": float(self.change_error[i, j, k]),
            }
            for i, variant in enumerate(self.variants)
            for j, quantity in enumerate(self.quantities)
            for k, population in enumerate(self.populations)
        ]

    def __str__(self) -> str:
        width = max(len(v) for v in self.variants)
        lines = [f"{'':{width}}  {'':10}" + "".join(f"{q:>24}" for q in self.quantities)]
        for i, variant in enumerate(self.variants):
            for k, population in enumerate(self.populations):
                cells = (
                    f"{self.value[i, j, k]:.4g} ({self.change[i, j, k]:+.2g})".rjust(24)
                    for j in range(len(self.quantities))
                )
                lines.append(f"{variant:{width}}  {population:10}" + "".join(cells))
        return "\n".join(lines)


def compare_features(
    network: Network,
    duration: float,
    dt: float,
    *,
    key: PRNGKeyArray,
    features: Sequence[str] | None = None,
    **solve_options: Any,
) -> FeatureComparison:
    """Switch single features of a network off, and see what each does to its stationary statistics.

    - `"discreteness"`: spikes become the intensities behind them, binary states their means.
    - `"indegree"`: Erdos-Renyi connections with the same number of inputs everywhere.
    - `"sparseness"`: dense Gaussian weights of the same mean and variance, which are equal at
      leading order: what sparse weights do beyond it is in `Diagnostics.skewness`.
    - `"noise"`: private noise, Poisson input and heterogeneity replaced by their means.
    - `"colour"`: recurrent input as white noise of its power at frequency zero.
    - `"shot"`: private Poisson input as Gaussian noise of the same covariance.
    - `"heterogeneity"`: `Quenched` drives left out.

    By default all that change the network and that its neurons allow. `solve_options`: of `solve`.
    Host function. Raises `ValueError` for unknown features and those that a network cannot do
    without.
    """
    known = (*FEATURES, _COLOUR)
    options: dict[str, Any] = {"method": "stationary", "response": False} | solve_options
    if features is None:
        features = [name for name in known if _applies(name, network, options)]
    unknown = [name for name in features if name not in known]
    if unknown:
        raise ValueError(f"unknown features {unknown}; known are {', '.join(known)}.")
    white: dict[str, Any] = options | {"white": True}
    variants: dict[str, tuple[Network, dict[str, Any]]] = {"as it is": (network, options)}
    for name in features:
        colour = name == _COLOUR
        variants[f"no {name}"] = (network, white) if colour else (FEATURES[name](network), options)
    values = np.stack(  # [variant, replica, quantity, population]
        [_quantities(solve(net, duration, dt, key=key, **own)) for net, own in variants.values()]
    )
    count = values.shape[1]
    change = values - values[:1]
    return FeatureComparison(
        value=values.mean(1),
        error=values.std(1, ddof=1) / count**0.5,
        change=change.mean(1),
        change_error=change.std(1, ddof=1) / count**0.5,
        variants=tuple(variants),
        quantities=_QUANTITIES,
        populations=network.names,
    )


def _applies(name: str, network: Network, options: dict[str, Any]) -> bool:
    """Whether a feature is there to be switched off."""
    if name == _COLOUR:
        # Binary neurons see the input of an instant: of white noise they would see no end.
        plain = options["method"] == "stationary" and options.get("order", "leading") == "leading"
        return plain and all(p.neuron.kind != "binary" for p in network.populations)
    if name == "discreteness":
        kinds = [p.neuron.kind for p in network.populations]
        known = all(k != "spike" or hasattr(p.neuron, "hazard") for k, p in
                    zip(kinds, network.populations, strict=True))  # fmt: skip
        return known and any(kind != "rate" for kind in kinds)
    try:
        changed = FEATURES[name](network)
    except ValueError:
        return False
    return not eqx.tree_equal(changed, network)


def _quantities(solution: Solution) -> np.ndarray:
    """`[replica, quantity, population]`."""
    found = solution.replicas
    assert found is not None
    sizes = np.asarray([population.size for population in solution.network.populations])
    rows = []
    for r in range(len(found["mean"])):
        own = {name: x[r] for name, x in found.items()}
        moving = own["covariance"] - own["quenched"][:, None]
        noise = _root(_at_zero(moving, solution.dt)) / np.sqrt(sizes)
        if "population_covariance" in own:
            between = jnp.diagonal(own["population_covariance"], axis1=0, axis2=1).T
            noise = _root(_at_zero(between, solution.dt))
        felt = own["input_covariance"] - own["input_quenched"][:, None]
        power = _at_zero(felt, solution.dt)
        time = power / (2 * jnp.where(felt[:, 0] > 0, felt[:, 0], jnp.inf))
        first = {p: f for f, (p, _) in reversed(list(enumerate(solution.fields)))}
        place = [first.get(name) for name in solution.names]

        def of(x: Array, place: list[int | None] = place) -> np.ndarray:
            return np.asarray([np.nan if f is None else float(x[f]) for f in place])

        spread = _root(own["quenched"])
        felt_noise = of(jnp.asarray(_root(power)))
        rows.append([np.asarray(own["mean"]), spread, felt_noise, of(time), noise])
    return np.asarray(rows)


def _root(x: Array) -> np.ndarray:
    return np.sqrt(np.maximum(np.asarray(x), 0))
