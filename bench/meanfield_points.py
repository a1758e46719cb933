"""New points of every family of the mean-field theory, each by independent ways, in float64.

Parameters that no table or test has. Each row compares one quantity of two back-ends: a closed form
beside SciPy's solution of the same equations another way (`peers/meanfield_scipy.py`), or paths
beside a closed form, or either beside networks that are simulated. Rows agree where they differ by
less than the tolerance of the theory's notes (relative; of rates at first order, infinite
networks) or than four standard errors, which themselves must be below the tolerance. A table
follows on stderr.
"""

from collections.abc import Iterator

import harness
from points.point import Point, show
from points.rates import binary, courses, linear, noisy_paths, rates
from points.spikes import diffusion, escape, lif_networks, oscillators, spiking


def cases(quick: bool) -> Iterator[Point]:
    families = (rates, noisy_paths, courses, linear, escape, binary, diffusion)
    for family in families if quick else (*families, spiking, lif_networks, oscillators):
        yield from family(quick)


if __name__ == "__main__":
    try:
        harness.main(cases)
    finally:
        show()
