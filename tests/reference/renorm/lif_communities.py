"""How well edges and communities of the clustered LIF network are found when few are observed.

Makes `lif_communities_runs.csv` (every run) and `lif_communities_measured.csv` (means, standard
errors over runs, and the paired gain of `infer_communities`). The method was chosen on seeds 0 to
2; seeds 3 to 5 were looked at once. Subsets are uniform draws of all neurons.

    PYTHONPATH=.:tests python tests/reference/renorm/lif_communities.py
"""

import csv
import sys
from pathlib import Path

import jax
import numpy as np
import renorm_lif
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from neurofield import renorm
from neurofield.recording import Raster

HERE = Path(__file__).parent
SUBSETS = {0.25: 4, 0.5: 2, 1.0: 1}  # draws of each share of the neurons
BASELINES = {"lagged": "lag 1-3", "var": "VAR(1)", "whitened": "whitened", "partial": "partial"}


def runs(fraction, seed):
    raster, weights, clusters = renorm_lif.recording(seed)
    spikes = np.asarray(raster.spikes)
    for subset in range(SUBSETS[fraction]):
        seen = renorm_lif.observed(seed, subset, fraction)
        part = Raster(spikes[seen], raster.bin_width)
        excitatory = seen < renorm_lif.NUM_EXCITATORY
        truth = clusters[seen[excitatory]]
        sub = weights[np.ix_(seen, seen)]
        start = {"observed": fraction, "seed": seed, "subset": subset}
        more = fraction == 0.25 and subset == 0
        for method, score, labels, note in found(part, excitatory, more):
            ari = {"ari": f"{adjusted_rand_score(truth, labels):.4f}", "note": note}
            yield start | {"method": method} | edges(sub, score) | ari


def found(part, excitatory, more):
    """Method, score or None, labels of the excitatory neurons, remarks."""
    key = jax.random.key(0)

    def find(score, method):
        inner = score[np.ix_(excitatory, excitatory)]
        return np.asarray(renorm.communities(key, inner, method, num_communities=4).labels)

    for name, title in BASELINES.items():
        score = np.asarray(renorm.infer_graph(part, name).score)
        yield f"{title}, spectral", score, find(score, "spectral"), ""
        if name in ("lagged", "var"):
            yield f"{title}, block model", None, find(score, "block_model"), ""
    ours = renorm.infer_communities(key, part, num_communities=4, neurons="excitatory")
    labels = np.asarray(ours.labels)
    note = f"tau {ours.time_constant:.3f}, E right {np.mean((labels >= 0) == excitatory)}"
    score = np.asarray(ours.score)
    yield "fading, spectral", score, find(score, "spectral"), ""
    yield "infer_communities, k = 4", None, labels[excitatory], note
    if not more:
        return
    free = renorm.infer_communities(key, part, neurons=np.flatnonzero(excitatory))
    note = f"k {free.communities.num_communities}, tau {free.time_constant:.3f}"
    yield "infer_communities, k free", None, np.asarray(free.labels)[excitatory], note
    blind = np.asarray(renorm.infer_communities(key, part, num_communities=4).labels)
    yield "infer_communities, k = 4, E and I", None, blind[excitatory], ""


def edges(weights, score):
    if score is None:
        return {"auc_excitatory": "", "auc_any": ""}
    off = ~np.eye(len(weights), dtype=bool)
    positive = roc_auc_score((weights > 0)[off], score[off])
    either = roc_auc_score((weights != 0)[off], np.abs(score)[off])
    return {"auc_excitatory": f"{positive:.4f}", "auc_any": f"{either:.4f}"}


def summary(rows):
    for group, seeds in (("chosen on", range(3)), ("fresh", range(3, 6))):
        for fraction in SUBSETS:
            kept = [r for r in rows if r["observed"] == fraction and r["seed"] in seeds]
            ours = {
                (r["seed"], r["subset"]): float(r["ari"])
                for r in kept
                if r["method"] == "infer_communities, k = 4"
            }
            for method in dict.fromkeys(r["method"] for r in kept):
                own = [r for r in kept if r["method"] == method]
                line = {"seeds": group, "observed": fraction, "method": method, "runs": len(own)}
                for name in ("auc_excitatory", "auc_any", "ari"):
                    values = [float(r[name]) for r in own if r[name]]
                    line[name], line[f"{name}_error"] = mean_error(values)
                gain = [ours[r["seed"], r["subset"]] - float(r["ari"]) for r in own]
                line["gain_in_ari"], line["gain_error"] = mean_error(gain)
                yield line


def mean_error(values):
    if not values:
        return "", ""
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):.3f}", f"{spread / len(values) ** 0.5:.3f}"


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    rows = []
    for fraction in SUBSETS:
        for seed in (3, 4, 5, 0, 1, 2):
            for one in runs(fraction, seed):
                rows.append(one)
                print(*one.values(), sep="\t", file=sys.stderr, flush=True)
            renorm_lif.recording.cache_clear()
            write(HERE / "lif_communities_runs.csv", rows)
            write(HERE / "lif_communities_measured.csv", list(summary(rows)))
