"""The spiking network that the Markov theory reduces, compiled by numba.

One excitatory and one inhibitory population; all neurons in arrays, all draws by the fastest exact
method known to us: normal numbers by the ziggurat, Poisson ones by inversion from tabulated
exponentials or by transformed rejection, binomial ones (as many trials for every neuron of a
population) from an alias table made once a step.
"""

from math import exp, lgamma, log, sqrt
from typing import Any

import numba
import numpy as np

# Marsaglia & Tsang (2000): 256 layers of equal area under exp(-x^2 / 2), the tail in the first.
_EDGE, _AREA = 3.6541528853610088, 0.00492867323399
_LARGE_MEAN = 10.0  # from which on transformed rejection is the faster


class SpikingNetwork:
    """Of `markov.Parameters` with populations E and I, in steps of `dt` seconds."""

    def __init__(self, params: Any, dt: float):
        self.sizes = np.rint(np.asarray(params.size)).astype(np.int64)
        self.span = float(params.reset), float(params.threshold)
        self.dt = dt
        tau = np.asarray(params.tau)
        self.constants = (
            dt * np.asarray(params.drive),
            np.sqrt(dt * np.asarray(params.drive_variance)),
            dt * np.asarray(params.leak),
            dt * np.asarray(params.charge) / tau,
            dt / tau,
            np.asarray(params.probability),
            -np.expm1(-dt * np.asarray(params.refractory_rate)),
            float(params.threshold),
            float(params.reset),
            float(params.inhibitory_reversal),
        )
        pending = np.arange(int(_LARGE_MEAN * tau.max() / dt) + 2)
        self.tables = (*ziggurat(), np.exp(-np.multiply.outer(dt / tau, pending)))
        self.rates(0, 0.0, dt)  # compiles

    def rates(self, seed: int, warm_up: float, duration: float) -> np.ndarray:
        """In hertz, after the warm-up.

        Voltages start uniform between reset and threshold, without pending spikes.
        """
        draw = np.random.default_rng(seed)
        count = self.sizes.sum()
        state = (
            draw.uniform(*self.span, count),
            np.zeros((2, count), np.int32),
            np.zeros(count, np.bool_),
            np.uint64(draw.integers(1, 2**63)),
        )
        first, last = round(warm_up / self.dt), round((warm_up + duration) / self.dt)
        spikes = _advance(first, last, self.sizes, state, self.constants, self.tables)
        return spikes / self.sizes / duration


def ziggurat() -> tuple[np.ndarray, np.ndarray]:
    """Right ends of the layers, and the share of each that is below the density everywhere."""
    ends = np.zeros(257)
    ends[0], ends[1] = _AREA * exp(_EDGE**2 / 2), _EDGE
    for i in range(2, 256):
        ends[i] = sqrt(-2 * log(_AREA / ends[i - 1] + exp(-(ends[i - 1] ** 2) / 2)))
    return ends, ends[1:] / ends[:-1]


@numba.njit
def _advance(first, last, sizes, state, constants, tables):
    voltage, pending, refractory, random = state
    drive, noise, leak, kick, loss, probability, leaving, threshold, reset, reversal = constants
    ends, shares, floors = tables
    total, fired = np.zeros(2, np.int64), np.zeros(2, np.int64)
    share, alias = np.empty((2, sizes.max() + 1)), np.empty((2, sizes.max() + 1), np.int32)
    lowest, columns = np.empty(2, np.int64), np.empty(2, np.int64)
    stack = np.empty(sizes.max() + 1, np.int32)
    for step in range(last):
        start = 0
        for q in range(2):
            fired[q] = 0
            for j in range(start, start + sizes[q]):
                if refractory[j]:
                    random, uniform = _uniform(random)
                    refractory[j] = uniform >= leaving[q]
                    continue
                v = voltage[j]
                felt = (v - reversal) / (threshold - reversal)
                random, normal = _normal(random, ends, shares)
                v += drive[q] + noise[q] * normal - leak[q] * v
                v += kick[q, 0] * pending[0, j] - kick[q, 1] * pending[1, j] * felt
                if v > threshold:
                    v = reset
                    fired[q] += 1
                    # The step of the spike may already end the refractoriness.
                    random, uniform = _uniform(random)
                    refractory[j] = uniform >= leaving[q]
                voltage[j] = v
            start += sizes[q]
        start = 0
        for q in range(2):
            for r in range(2):
                if fired[r] > 0:
                    lowest[r], columns[r] = _binomial_table(
                        fired[r], probability[q, r], share[r], alias[r], stack
                    )
            for r in range(2):
                rate, floor, source = loss[q, r], floors[q, r], pending[r]
                for j in range(start, start + sizes[q]):
                    held = source[j]
                    if held > 0:
                        mean = rate * held
                        if mean < _LARGE_MEAN:
                            random, lost = _few(random, mean, floor[held])
                        else:
                            random, lost = _many(random, mean)
                        held -= lost
                    if fired[r] > 0:
                        random, uniform = _uniform(random)
                        x = uniform * columns[r]
                        column = int(x)
                        chosen = column if x - column < share[r, column] else alias[r, column]
                        held += lowest[r] + chosen
                    source[j] = max(held, 0)
            start += sizes[q]
        if step >= first:
            total += fired
    return total


@numba.njit
def _uniform(random):
    """Marsaglia's xorshift (2003), and its 53 high bits as a number from [0, 1)."""
    random ^= random << np.uint64(13)
    random ^= random >> np.uint64(7)
    random ^= random << np.uint64(17)
    return random, (random >> np.uint64(11)) * 2.0**-53


@numba.njit
def _normal(random, ends, shares):
    while True:
        random, uniform = _uniform(random)
        layer = random & np.uint64(255)
        u = 2 * uniform - 1
        if abs(u) < shares[layer]:
            return random, u * ends[layer]
        random, again = _uniform(random)
        if layer == 0:  # Marsaglia (1964)
            while True:
                random, other = _uniform(random)
                x, y = -log(1 - again) / _EDGE, -log(1 - other)
                if 2 * y >= x * x:
                    return random, (_EDGE + x if u > 0 else -_EDGE - x)
                random, again = _uniform(random)
        x = u * ends[layer]
        low = exp(-0.5 * (ends[layer] ** 2 - x * x))
        high = exp(-0.5 * (ends[layer + np.uint64(1)] ** 2 - x * x))
        if low + again * (high - low) < 1:
            return random, x


@numba.njit
def _few(random, mean, floor):
    """Poisson: inversion; `floor` is exp(-mean)."""
    random, left = _uniform(random)
    count, chance = 0, floor
    while left > chance and count < 100:
        left -= chance
        count += 1
        chance *= mean / count
    return random, count


@numba.njit
def _many(random, mean):
    """Poisson: transformed rejection (Hörmann 1993, PTRS)."""
    b = 0.931 + 2.53 * sqrt(mean)
    a = -0.059 + 0.02483 * b
    squeeze = 0.9277 - 3.6224 / (b - 2)
    while True:
        random, u = _uniform(random)
        random, v = _uniform(random)
        u -= 0.5
        inside = 0.5 - abs(u)
        count = int(np.floor((2 * a / inside + b) * u + mean + 0.43)) if inside > 0 else -1
        if inside >= 0.07 and v <= squeeze:
            return random, count
        if count < 0 or (inside < 0.013 and v > inside) or v == 0:
            continue
        scale = (1.1239 + 1.1328 / (b - 3.4)) / (a / (inside * inside) + b)
        if log(v * scale) <= count * log(mean) - mean - lgamma(count + 1):
            return random, count


@numba.njit
def _binomial_table(trials, p, share, alias, stack):
    """Walker's (1977) table for all numbers within nine standard deviations: lowest, how many."""
    around = 9 * sqrt(trials * p * (1 - p)) + 9
    mode = min(int((trials + 1) * p), trials)
    lowest, highest = max(0, int(mode - around)), min(trials, int(mode + around))
    num = highest - lowest + 1
    odds = p / (1 - p) if p < 1 else 0.0
    at = mode - lowest
    share[at] = total = 1.0
    for k in range(at, num - 1):
        share[k + 1] = share[k] * odds * (trials - lowest - k) / (lowest + k + 1)
        total += share[k + 1]
    for k in range(at, 0, -1):
        back = (lowest + k) / (odds * (trials - lowest - k + 1)) if odds > 0 else 0.0
        share[k - 1] = share[k] * back
        total += share[k - 1]
    # One stack from both ends: what is below the mean share, and what is above.
    small, large = 0, num
    for k in range(num):
        share[k] *= num / total
        alias[k] = k
        if share[k] < 1:
            stack[small] = k
            small += 1
        else:
            large -= 1
            stack[large] = k
    while small > 0 and large < num:
        small -= 1
        lesser, greater = stack[small], stack[large]
        alias[lesser] = greater
        share[greater] -= 1 - share[lesser]
        if share[greater] < 1:
            large += 1
            stack[small] = greater
            small += 1
    for k in range(small):
        share[stack[k]] = 1.0
    for k in range(large, num):
        share[stack[k]] = 1.0
    return lowest, num
