"""The published discrete-time map."""

from typing import Literal

Refractory = Literal["exact", "published"]


def run_map(*args, **keywords):
    raise NotImplementedError
