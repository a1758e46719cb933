"""The kinetic (causal logistic) model of the shipped recording, against NumPy and SciPy.

15 neurons x 60,000 bins of 20 ms, one lag, no penalty. First the mean negative log-likelihood of a
transition with its gradient, then the whole fit: Newton's method against L-BFGS-B.
"""

from collections.abc import Iterator

import harness
import numpy as np

OPTIMUM, UNSURE = 3.1511, 1e-4  # nats a bin, summed over the neurons, over 59,999 transitions


def cases(quick: bool) -> Iterator[harness.Case]:
    import jax
    import jax.numpy as jnp
    from scipy.optimize import minimize

    from neurofield import lattice, recording

    raster = recording.bin_spikes(recording.example("head_direction"), bin_width=0.02)
    if quick:
        raster = recording.select(raster, bins=slice(0, 2000))
    spikes = np.asarray(raster.spikes)
    num_neurons, num_bins = spikes.shape
    num_steps = num_bins - 1

    @jax.jit
    @jax.value_and_grad
    def loss(model, spikes):
        return -lattice.log_likelihood(model, spikes) / num_steps

    def flat(model):
        return np.concatenate([np.ravel(model.field), np.ravel(model.weight)])

    def difference(ours, theirs):
        """Of the values, and of the gradients relative to the largest entry."""
        gradient, expected = flat(ours[1]), np.concatenate([np.ravel(g) for g in theirs[1]])
        relative = np.max(np.abs(gradient - expected)) / np.max(np.abs(expected))
        return max(abs(float(ours[0]) - float(theirs[0])), relative)

    rng = np.random.default_rng(0)
    field = rng.normal(-2, 0.3, num_neurons)
    weight = rng.normal(0, 0.3, (1, num_neurons, num_neurons))
    for dtype, tolerance in (("float32", 2e-5), ("float64", 1e-12)):
        model = lattice.Kinetic(jnp.asarray(field, dtype), jnp.asarray(weight, dtype))
        numpy_loss = NumpyLoss(spikes, dtype)
        ours = jnp.asarray(spikes)
        yield harness.Case(
            name="kinetic value and gradient",
            ours=lambda model=model, ours=ours: loss(model, ours),
            peer=lambda f=numpy_loss, m=model: f(np.asarray(m.field), np.asarray(m.weight[0])),
            peer_name="numpy",
            disagreement=difference,
            # Float32: rounding of 900,000 terms' sum, relative to values of order one.
            tolerance=tolerance,
            dtype=dtype,
            # Two matrix products; the spikes are read twice.
            flops=4 * num_neurons**2 * num_steps,
            bytes=2 * spikes.nbytes,
        )

    numpy_loss = NumpyLoss(spikes, "float64")
    start = np.zeros(num_neurons * (num_neurons + 1))
    start[:num_neurons] = np.log(spikes.mean(1) / (1 - spikes.mean(1)))

    def lbfgs(value_and_gradient):
        options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-14, "gtol": 1e-7, "maxcor": 20}
        return minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).fun

    def numpy_side(params):
        value, (d_field, d_weight) = numpy_loss(*unpack(params))
        return value, np.concatenate([d_field, d_weight.ravel()])

    def unpack(params):
        weight = params[num_neurons:].reshape(num_neurons, num_neurons)
        return params[:num_neurons], weight

    def jax_side(params):
        field, weight = unpack(params)
        value, gradient = loss(lattice.Kinetic(field, weight[None]), ours)
        return float(value), flat(gradient)

    def newton():
        # A recording cut short for a quick run may leave pairs that never fire together.
        model = lattice.fit(raster, model="kinetic", throw=not quick).value
        return loss(model, ours)[0]

    def distance(ours, theirs):
        known = quick or abs(float(ours) - OPTIMUM) <= UNSURE
        return abs(float(ours) - float(theirs)) if known else np.inf

    for gradient, side in (("numpy", numpy_side), ("jax", jax_side)):
        yield harness.Case(
            name="kinetic fit",
            ours=newton,
            peer=lambda side=side: lbfgs(side),
            peer_name=f"scipy L-BFGS-B, {gradient} gradient",
            disagreement=distance,
            tolerance=1e-3 if quick else 1e-6,
            dtype="float64",
        )


class NumpyLoss:
    """Mean negative log-likelihood and its gradient, in buffers that are made once."""

    def __init__(self, spikes: np.ndarray, dtype: str):
        self.past = np.ascontiguousarray(spikes[:, :-1], dtype)
        self.now = np.ascontiguousarray(spikes[:, 1:], dtype)
        self.logits, self.small, self.work = (np.empty_like(self.now) for _ in range(3))

    def __call__(self, field: np.ndarray, weight: np.ndarray):
        h, e, work = self.logits, self.small, self.work
        count = h.shape[1]
        np.matmul(weight, self.past, out=h)
        h += field[:, None]
        # log(1 + exp(h)) = max(h, 0) + log(1 + e) and sigmoid(h), both from e = exp(-|h|).
        np.abs(h, out=e)
        np.negative(e, out=e)
        np.exp(e, out=e)
        np.log1p(e, out=work)
        value = np.sum(work) + np.sum(np.maximum(h, 0, out=work)) - np.vdot(self.now, h)
        np.greater(h, 0, out=work, casting="unsafe")
        # sigmoid = 1 / (1 + e) for h > 0, e / (1 + e) else.
        np.maximum(work, e, out=work)
        e += 1
        work /= e
        work -= self.now
        return value / count, (work.sum(1) / count, work @ self.past.T / count)


if __name__ == "__main__":
    harness.main(cases)
