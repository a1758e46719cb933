"""Outcome codes that travel through jit and vmap, with sentences for people."""

from typing import Any

import optimistix as optx


class RESULTS(optx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How a solve or a fit ended; extends optimistix's (and so lineax's) outcomes."""

    separation = (
        "A parameter grows without bound: the data never (or always) show the event it codes "
        "for, so the likelihood has no maximum. Use firth=True or l2 > 0."
    )
    stopped = "The run was interrupted; resume it from its checkpoint."
    stalled = "The line search could not improve the objective before the tolerance was met."


def is_successful(result: RESULTS) -> bool:
    """Whether a concrete result code is `RESULTS.successful` (host only)."""
    return bool(result == RESULTS.successful)


def choose(predicate: Any, yes: Any, no: Any) -> RESULTS:
    """The code `yes` where a predicate holds, else `no`, both traced or not."""
    return RESULTS.where(predicate, yes, no)
