"""Self-consistent Gaussian-process equations of networks of causal neurons."""

from ._solution import Solution as Solution
from ._solve import solve as solve
