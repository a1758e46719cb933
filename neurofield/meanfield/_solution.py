"""What the mean-field equations say of a network."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from neurofield._results import RESULTS
from neurofield.network import Network

from ._stationary import Moments


class Solution(eqx.Module):
    """Means and covariances of outputs and inputs, on equal footing.

    Stationary solutions have lags where others have two times: `time[T]` is the lag (from 0), or
    the end of each step, in seconds. Outputs are in hertz for neurons that spike, else as they are
    (rates, binary states). A *field* is the recurrent input of one population in one channel, named
    in `fields`; drives are not in it. Over neurons of a population and over noise:

    - `mean`: `[population]` or `[population, time]`, of the output.
    - `covariance`: `[population, lag]` or `[population, time, time]`, of one neuron's output at two
      times, the differences between neurons included. At lag 0 that of spikes is of counts in steps
      of `dt`, so it holds mean / dt.
    - `quenched`: `[population]`, its limit at long lags: the variance of the neurons' own means;
      `None` if not stationary.
    - `input_mean`, `input_covariance`, `input_quenched`: the same of the fields.
    - `shared_covariance`: `[field, field, lag]`, or `[field, field, time, time]`, of what all
      neurons of a population receive alike, from the finite sizes and shared noise; `None` at
      leading order.
    - `population_covariance`: `[population, population, lag]`, over time, or `[population,
      population, time, time]`, over networks, each with connections and noise of its own: of the
      population means; `None` at leading order.
    - `response`: `[field, lag]`, change of the mean output at a step per unit of the field at the
      step `lag` earlier, as a density in time (1/s), or `[field, time, time]`, at the first time
      per unit of the field at the second, zero if that is later; `None` where it was not asked for,
      with a `window`, and at order "nested".
    - `variance_response`: of the same shape, the same per unit of variance of the field, where that
      follows the means at once (binary neurons, spikes through `Delta`); else `None`.
    - `stream_response`: `[stream, field, lag]`, of what plastic synapses transmit; else `None`.
    - `*_error`: standard errors, over independent groups of paths; `None` for closed forms.
    - `replicas`: the estimates above of each independent group of paths, `[replica, ...]` by name,
      from whose spread the errors are; `None` for closed forms.
    - `diagnostics`: see `Diagnostics`; `None` of closed forms. `result`, `stats`: how the solution
      ended, and whether its numbers are finite.
    - `settings`: how `solve` was called, where it drew paths (static).
    """

    time: Float[Array, "time"]
    mean: Float[Array, "population *time"]
    covariance: Float[Array, "population *times"]
    quenched: Float[Array, "population"] | None
    input_mean: Float[Array, "field *time"]
    input_covariance: Float[Array, "field *times"]
    input_quenched: Float[Array, "field"] | None
    mean_error: Float[Array, "population *time"] | None
    covariance_error: Float[Array, "population *times"] | None
    quenched_error: Float[Array, "population"] | None
    input_mean_error: Float[Array, "field *time"] | None
    input_covariance_error: Float[Array, "field *times"] | None
    input_quenched_error: Float[Array, "field"] | None
    shared_covariance: Float[Array, "field field *times"] | None
    shared_covariance_error: Float[Array, "field field *times"] | None
    population_covariance: Float[Array, "population population *times"] | None
    population_covariance_error: Float[Array, "population population *times"] | None
    response: Float[Array, "field *times"] | None
    response_error: Float[Array, "field *times"] | None
    variance_response: Float[Array, "field *times"] | None
    stream_response: Float[Array, "stream field lag"] | None
    moments: Moments | None  # of the streams, `[replica, ...]`: where a new solve can start
    diagnostics: Any
    result: RESULTS
    stats: dict[str, Any]
    network: Network
    fields: tuple[tuple[str, str], ...] = eqx.field(static=True)  # (population, channel)
    dt: float = eqx.field(static=True)
    method: str = eqx.field(static=True)
    order: str = eqx.field(static=True)
    gradient: str = eqx.field(static=True)  # the estimator behind derivatives
    replicas: dict[str, Array] | None = None
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True, default=())

    @property
    def names(self) -> tuple[str, ...]:
        return self.network.names

    @property
    def stationary(self) -> bool:
        return self.quenched is not None
