"""What all figures share: axes, colours and unit labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any  # matplotlib is loaded when something is drawn

# Okabe and Ito's palette without its yellow and sky blue: distinct to every kind of colour vision
# and dark enough on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P")
_MAX_LABELS = 30


def axes_of(ax: Axes | None, size: tuple[float | int, float | int]) -> Axes:
    """`ax`, or the axes of a new pyplot figure of `size` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def label_units(axis: Any, labels: Sequence[str], *, vertical: bool = False) -> None:
    """Unit names as ticks of an axis; of many units, every second, fifth, tenth, ... one."""
    count = len(labels)
    steps = (base * power for power in (1, 10, 100, 1000) for base in (1, 2, 5))
    step = next((s for s in steps if count <= _MAX_LABELS * s), 10_000)
    ticks = range(0, count, step)
    size = 8 if len(ticks) <= 16 else 6.5
    longest = max((len(labels[i]) for i in ticks), default=0)
    rotation = 90 if vertical and longest * len(ticks) > 40 else 0
    axis.set_ticks(ticks, [labels[i] for i in ticks], fontsize=size, rotation=rotation)
    axis.set_tick_params(length=2)


def names_of(labels: Sequence[str] | None, count: int) -> list[str]:
    """`labels` checked for their number, or numbers from 0."""
    if labels is None or not len(labels):
        return [str(i) for i in range(count)]
    if len(labels) != count:
        raise ValueError(f"expected {count} labels, one a unit, got {len(labels)}.")
    return [str(label) for label in labels]
