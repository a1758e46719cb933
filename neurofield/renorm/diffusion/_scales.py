"""Scales of a graph: where its specific heat peaks, and where it stays level."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ._thermodynamics import Thermodynamics

# A level stretch of C: its spread in ln C, the least C that counts, and the decades that it needs
# to be more than the top of a peak.
_LEVEL, _LEAST, _DECADES = 0.10, 0.05, 1.0


class Scales(eqx.Module):
    """What the specific heat C(tau) says about the scales of a graph.

    **Attributes**

    - `times`, `specific_heat`, `prominence`: `[scale]`, the diffusion times at which the graph
      falls into parts, C there, and the prominence of the peak in ln C. Empty: no scale.
    - `peak_times`, `peak_specific_heat`, `peak_kinds`: `[peak]`, all maxima of C, each `"parts"`
      (a scale), `"cut-off"` (the largest eigenvalues), `"whole"` (diffusion covers every
      component), `"open"` (the last one, where the times end too early to tell) or `"weak"` (below
      the prominence asked for, or C below 0.05).
    - `plateau_times`, `plateau_specific_heat`: the ends of the longest stretch on which ln C
      spreads by less than 0.1 with C > 0.05, and the mean C there, half the spectral dimension;
      None if C stays below. A stretch of less than a decade is the top of a peak, no plateau.
    - `reason`: all this in words (static).
    """

    times: Float[np.ndarray, " scale"]
    specific_heat: Float[np.ndarray, " scale"]
    prominence: Float[np.ndarray, " scale"]
    peak_times: Float[np.ndarray, " peak"]
    peak_specific_heat: Float[np.ndarray, " peak"]
    peak_kinds: tuple[str, ...] = eqx.field(static=True)
    plateau_times: Float[np.ndarray, "2"] | None
    plateau_specific_heat: float | None
    reason: str = eqx.field(static=True)

    @property
    def spectral_dimension(self) -> float | None:
        """2 C on a plateau of at least a decade, else None."""
        if self.plateau_times is None or self.plateau_specific_heat is None:
            return None
        wide = np.log10(self.plateau_times[1] / self.plateau_times[0]) >= _DECADES
        return 2 * self.plateau_specific_heat if wide else None


def diffusion_scales(
    thermodynamics: Thermodynamics, *, prominence: float = 0.15, fall: float = 0.5
) -> Scales:
    """The scales of a graph, from the maxima of its specific heat (host only).

    A maximum of C is a scale if its topographic prominence in ln C is at least `prominence` (and
    three standard errors, where C is estimated), unless it is one of two that any graph has:

    - the whole: the last maximum. Every component is covered there, whether or not it has parts:
      the only peak of a complete or a random graph is this one.
    - the cut-off: the first maximum, unless C falls below `fall` times its height before
      it rises again, within a decade. Where the spectrum has a gap C falls as that of a two-level
      system; where it is a band that reaches down to low eigenvalues C falls only to its plateau
      (to 0.74 on lattices, which a `fall` of up to 0.7 leaves out). Levels of a hierarchy whose
      eigenvalues differ by less than about 7 need a `fall` above one half.

    Position cannot tell the cut-off: every maximum of C lies at tau >= 2 / lambda_max. Nor can C
    tell modules of 8 joined in a tree (1.76, then 0.57) from a ring whose edges reach the three
    nearest neighbours (1.55, then 0.57): both keep their first peak. Compare with nulls.

    Positions are refined by a parabola in ln tau. The times must be spaced closely (20 a decade)
    and reach from before the first maximum to where C has died out; `reason` says if they do not.
    Raises `ValueError` for fewer than five times, unsorted ones, and settings out of range.
    """
    from scipy.signal import find_peaks, peak_prominences

    times = np.asarray(thermodynamics.diffusion_times, float)
    heat = np.asarray(thermodynamics.specific_heat, float)
    if len(times) < 5 or not (times[0] > 0 and (np.diff(times) > 0).all()):
        raise ValueError("diffusion_times must be at least 5, positive and increasing.")
    if not (prominence > 0 and 0 < fall < 1):
        raise ValueError(
            f"prominence must be positive and fall in (0, 1), got {prominence} and {fall}."
        )
    positive = np.maximum(heat, 1e-6 * max(heat.max(), 1e-300))
    log_times, log_heat = np.log(times), np.log(positive)
    error = thermodynamics.specific_heat_error
    # A prominence is a difference of two estimates.
    noise = 0.0 if error is None else 3 * 2**0.5 * np.asarray(error, float) / positive
    noise = np.broadcast_to(noise, heat.shape)

    index, _ = find_peaks(log_heat)
    height = peak_prominences(log_heat, index)[0]
    real = height > np.maximum(noise[index], 1e-6)
    index, height = index[real], height[real]
    enough = (height >= prominence) & (heat[index] > _LEAST)
    ended = bool(heat[-1] < 0.01)
    rising = heat[1] * times[0] > heat[0] * times[1]  # C goes with tau^2 before its first maximum
    started = bool(rising or heat[0] < 0.01)
    kinds = ["parts" if e else "weak" for e in enough]
    if kinds and enough[0]:
        start = index[0]
        end = index[1] if len(index) > 1 else len(times)
        after = heat[start:end][times[start:end] <= 10 * times[start]]
        if after.min() > fall * heat[start]:
            kinds[0] = "cut-off"
    if kinds and kinds[-1] != "cut-off":
        kinds[-1] = "whole" if ended else "open"

    peaks = np.array([_refine(log_times, log_heat, i) for i in index.tolist()]).reshape(-1, 2)
    peak_times, peak_heat = np.exp(peaks).T
    kept = np.array([kind == "parts" for kind in kinds], bool)
    plateau = _plateau(log_times, heat)
    found = {"parts": [], "cut-off": [], "whole": [], "open": [], "weak": []}
    for kind, time in zip(kinds, peak_times, strict=True):
        found[kind].append(f"{time:.3g}")
    return Scales(
        peak_times[kept],
        peak_heat[kept],
        height[kept],
        peak_times,
        peak_heat,
        tuple(kinds),
        None if plateau is None else plateau[0],
        None if plateau is None else plateau[1],
        _reason(found, plateau, ended, started),
    )


def _refine(x: np.ndarray, y: np.ndarray, i: int) -> tuple[float, float]:
    """The summit of the parabola through a maximum and its neighbours."""
    left, right = x[i] - x[i - 1], x[i + 1] - x[i]
    down, up = (y[i] - y[i - 1]) / left, (y[i + 1] - y[i]) / right
    curvature = (up - down) / (left + right)
    if curvature >= 0:  # a flat top
        return float(x[i]), float(y[i])
    slope = (down * right + up * left) / (left + right)
    shift = -slope / (2 * curvature)
    return float(x[i] + shift), float(y[i] + slope * shift + curvature * shift**2)


def _plateau(log_times: np.ndarray, heat: np.ndarray) -> tuple[np.ndarray, float] | None:
    best, start = None, 0
    for end in range(len(heat)):
        if heat[end] <= _LEAST:
            start = end + 1
            continue
        window = np.log(heat[start : end + 1])
        while np.ptp(window) >= _LEVEL:
            start, window = start + 1, window[1:]
        if best is None or log_times[end] - log_times[start] > np.ptp(log_times[best]):
            best = [start, end]
    if best is None:
        return None
    return np.exp(log_times[best]), float(heat[best[0] : best[1] + 1].mean())


def _reason(found: dict[str, list[str]], plateau, ended: bool, started: bool) -> str:
    said = []
    if found["parts"]:
        said.append(f"scale at tau = {', '.join(found['parts'])}.")
    else:
        said.append("no scale: C has no maximum that tells of parts.")
    if found["cut-off"]:
        said.append(
            f"The first maximum, tau = {found['cut-off'][0]}, is the cut-off's: C only falls to a "
            "plateau after it."
        )
    if found["whole"]:
        said.append(
            f"The last maximum, tau = {found['whole'][0]}, is where diffusion covers the whole of "
            "every component, as on any graph."
        )
    if found["open"]:
        said.append(f"The times end too early to tell what the maximum at {found['open'][0]} is.")
    if found["weak"]:
        said.append(f"Too weak: tau = {', '.join(found['weak'])}.")
    if plateau is not None and np.log10(plateau[0][1] / plateau[0][0]) >= _DECADES:
        said.append(
            f"C is level at {plateau[1]:.3g} from tau = {plateau[0][0]:.3g} to {plateau[0][1]:.3g}"
            f": a spectral dimension of {2 * plateau[1]:.3g}, and any tau there is as good."
        )
    if not started:
        said.append("The times start after the first rise of C: begin earlier.")
    if not ended:
        said.append("The times end before C has died out: go on to 10 / (smallest eigenvalue).")
    return " ".join(said)
