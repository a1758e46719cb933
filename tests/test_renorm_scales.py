"""Scales of graphs against the reference curves, closed forms, and graphs that have none."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from renorm_graphs import (
    RANDOM,
    curves,
    exact_spectra,
    modules,
    ring_spectrum,
    spectrum,
    sums,
    table,
)

from neurofield.renorm import Thermodynamics, diffusion_scales

TIMES = np.geomspace(1e-2, 1e5, 281)
LONG = np.geomspace(1e-3, 1e6, 361)


@pytest.fixture(scope="module")
def spectra():
    made = {f"{name}_seed0": spectrum(make(0)) for name, make in RANDOM.items()}
    return exact_spectra() | made


@pytest.fixture(scope="module")
def summary():
    return {row["graph"]: list(row.values()) for row in table("lrg_reference_summary.csv")}


@pytest.fixture(scope="module")
def reference():
    rows = table("lrg_reference_C_of_tau.csv")
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def check_plateau(scales, text):
    """Against a cell such as `4.03 decades [3.35;3.55e+04] C=0.5058 -> d_s=1.0115`."""
    found = re.fullmatch(r"([\d.]+) decades \[(.*);(.*)\] C=([\d.]+) -> d_s=.*", text)
    decades, start, end, heat = map(float, found.groups())
    np.testing.assert_allclose(scales.plateau_times, [start, end], rtol=5e-3)
    assert np.log10(np.divide(*scales.plateau_times[::-1])) == pytest.approx(decades, abs=6e-3)
    assert scales.plateau_specific_heat == pytest.approx(heat, abs=6e-5)


def test_every_plateau_and_every_maximum_of_the_table(spectra, summary):
    for name, values in spectra.items():
        scales = diffusion_scales(curves(values, TIMES))
        row = summary[name]
        assert row[1] == str(len(values))
        np.testing.assert_allclose(values[values > 1e-9][0], float(row[2]), rtol=1e-8)
        check_plateau(scales, row[6])
        # Refined positions lie within half a step of the grid's, C a little above.
        maxima = re.findall(r"tau=([\d.e+]+):C=([\d.]+)", row[5])
        for time, heat in np.array(maxima, float):
            nearest = np.argmin(np.abs(np.log(scales.peak_times / time)))
            assert scales.peak_times[nearest] == pytest.approx(time, rel=0.035), name
            assert scales.peak_specific_heat[nearest] == pytest.approx(heat, rel=2e-3)


def test_the_curves_of_the_table(spectra, reference):
    times = reference["tau"]
    for name, values in spectra.items():
        heat = curves(values, times).specific_heat
        np.testing.assert_allclose(heat, reference[name], rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_mean_curves_of_the_table(reference, summary):
    times = reference["tau"]
    counts = {name.rpartition("_mean")[0]: name for name in summary if "_mean" in name}
    for name, make in RANDOM.items():
        count = int(counts[name][-1])
        fine = [curves(spectrum(make(seed)), TIMES) for seed in range(count)]
        mean = np.mean([x.specific_heat for x in fine], axis=0)
        coarse = np.interp(np.log(times), np.log(TIMES), mean)
        np.testing.assert_allclose(coarse, reference[f"{name}_mean"], rtol=1e-6, atol=1e-9)
        average = Thermodynamics(*map(jnp.asarray, [TIMES, mean, mean, mean, mean]))
        check_plateau(diffusion_scales(average), summary[counts[name]][6])


def test_which_peaks_are_scales(spectra):
    kinds, times = {}, {}
    for name, values in spectra.items():
        scales = diffusion_scales(curves(values, LONG))
        kinds[name.removesuffix("_seed0")] = [k for k in scales.peak_kinds if k != "weak"]
        times[name.removesuffix("_seed0")] = scales.times
    # Lattices and deterministic flowers: the cut-off and the whole, nothing between.
    for name in ("ring_N1024", "torus2d_64x64", "torus3d_16^3", "flower_2_2_n5"):
        assert kinds[name] == ["cut-off", "whole"], name
    # Graphs without parts have one peak, the whole.
    for name in ("BA_m1_N1024", "BA_m3_N1024", "ER_k8_N1024", "flower_1_2_n6_DGM"):
        assert kinds[name] == ["whole"], name
    # The gasket's levels: one peak for each, 5 = 2^walk dimension apart, but for the last level.
    assert kinds["gasket_g6"] == ["cut-off", "parts", "parts", "parts", "whole"]
    np.testing.assert_allclose(np.diff(np.log(times["gasket_g6"])), np.log(5), rtol=0.02)
    np.testing.assert_allclose(times["SBM_8x64_pin.25_pout.004"], [0.392], rtol=0.01)
    np.testing.assert_allclose(times["HMN_64mod_x8_N512"][0], 0.417, rtol=0.01)
    # What C cannot tell: short edges of a small world look like modules.
    np.testing.assert_allclose(times["WS_k6_p0.01_N1024"], [0.571], rtol=0.01)


def test_single_peaks_in_closed_form():
    fine = np.geomspace(1e-3, 1e2, 2001)
    edge = diffusion_scales(curves(np.array([0.0, 2.0]), fine))
    assert edge.peak_kinds == ("whole",)
    np.testing.assert_allclose(edge.peak_times, [1.199679], rtol=1e-5)
    np.testing.assert_allclose(edge.peak_specific_heat, [0.439229], rtol=2e-6)
    # K_N: C = x^2 p (1 - p), p = (N - 1) e^-x / (1 + (N - 1) e^-x), x = N tau.
    complete = diffusion_scales(curves(np.array([0.0] + [16.0] * 15), fine))
    x = np.linspace(1, 10, 90_001)
    p = 15 * np.exp(-x) / (1 + 15 * np.exp(-x))
    heat = x**2 * p * (1 - p)
    np.testing.assert_allclose(complete.peak_times, [x[heat.argmax()] / 16], rtol=1e-4)
    np.testing.assert_allclose(complete.peak_specific_heat, [heat.max()], rtol=1e-6)
    assert complete.peak_kinds == ("whole",)
    assert len(complete.times) == 0
    assert complete.reason.startswith("no scale")
    assert "whole" in complete.reason
    # Two of them apart: S ends at ln 2, and the peak is each component's own.
    pair = curves(np.array([0.0] * 2 + [16.0] * 30), fine)
    assert diffusion_scales(pair).peak_kinds == ("whole",)
    np.testing.assert_allclose(pair.entropy[-1], np.log(2), rtol=1e-12)


def test_every_maximum_lies_beyond_two_over_the_largest_eigenvalue(spectra):
    # d ln C / d ln tau = 2 - tau k3 / k2, and k3 <= k2 (lambda_max - <lambda>) for any law on
    # [0, lambda_max]: no position tells the cut-off's maximum from others.
    rng = np.random.default_rng(0)
    random = [np.concatenate([[0], 10 ** rng.uniform(-3, 1, size)]) for size in range(1, 40)]
    for values in [*spectra.values(), *map(np.sort, random)]:
        scales = diffusion_scales(curves(values, np.geomspace(1e-3, 1e5, 241)))
        assert (scales.peak_times * values[-1] > 2).all()


def test_the_whole_is_a_plateau_on_scale_free_lattices():
    ring = diffusion_scales(curves(ring_spectrum(1024), LONG))
    torus = diffusion_scales(curves(sums(ring_spectrum(64), ring_spectrum(64)), LONG))
    assert ring.spectral_dimension == pytest.approx(1, abs=0.02)
    assert torus.spectral_dimension == pytest.approx(2, abs=0.06)
    # A lattice whose edges reach three neighbours passes for modules of about four: said so.
    wide = diffusion_scales(curves(ring_spectrum(1024, reach=3), LONG))
    np.testing.assert_allclose(wide.times, [0.563], rtol=0.01)
    assert diffusion_scales(curves(np.array([0.0, 2.0]), LONG)).spectral_dimension is None


def test_curves_in_single_precision():
    # 8 cliques of 8: 1 / tau lies in the gap between 8 and the eigenvalues of the tree.
    graph = curves(spectrum(modules(0, 8, 8)), np.geomspace(1e-2, 1e4, 241))
    single = jax.tree.map(lambda x: x.astype(jnp.float32), graph)
    scales = diffusion_scales(single)
    assert 1 / 8 < scales.times[0] < 1
    assert scales.peak_kinds[0] == "parts"
    assert scales.peak_kinds[-1] == "whole"


def test_times_that_end_too_early_claim_nothing():
    values = spectrum(RANDOM["SBM_8x64_pin.25_pout.004"](0))
    early = diffusion_scales(curves(values, np.geomspace(1e-2, 0.8, 81)))
    assert early.peak_kinds == ("open",)
    assert len(early.times) == 0
    assert "end too early" in early.reason
    assert "end before" in early.reason
    late = diffusion_scales(curves(values, np.geomspace(0.5, 100, 81)))
    assert "start after" in late.reason


def test_noise_below_three_errors_is_no_maximum():
    values = np.array([0.0] + [16.0] * 15)
    clean = curves(values, np.geomspace(1e-3, 1e1, 641))
    noise = 0.05 * np.random.default_rng(0).normal(size=641)
    noise *= np.asarray(clean.specific_heat) > 0.1
    heat = clean.specific_heat * (1 + noise)
    rough = dataclasses.replace(clean, specific_heat=heat)
    assert len(diffusion_scales(rough).peak_times) > 3
    known = dataclasses.replace(rough, specific_heat_error=0.05 * clean.specific_heat)
    assert diffusion_scales(known).peak_kinds == ("whole",)


def test_wrong_arguments_say_so():
    good = curves(np.array([0.0, 2.0]), np.geomspace(0.1, 10, 41))
    with pytest.raises(ValueError, match="prominence"):
        diffusion_scales(good, prominence=0.0)
    with pytest.raises(ValueError, match="fall"):
        diffusion_scales(good, fall=1.0)
    with pytest.raises(ValueError, match="increasing"):
        diffusion_scales(curves(np.array([0.0, 2.0]), np.geomspace(10, 0.1, 41)))
    flat = Thermodynamics(*[jnp.arange(1.0, 9.0)] * 2, *[jnp.zeros(8)] * 3)
    assert len(diffusion_scales(flat).peak_times) == 0
