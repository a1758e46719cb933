"""Files come back bit for bit, are written whole or not at all, and never run what they hold."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofield._files import atomic_write
from neurofield.fit import RESULTS, Fit, load, read_header, save
from neurofield.recording._raster import Raster

DTYPES = [
    *["bool", "uint8", "int8", "int32", "int64", "uint32", "float16", "bfloat16", "float32"],
    *["float64", "complex64", "complex128"],
]


def same(a, b):
    """Equal structure, types, dtypes, shapes and bits (NaN included)."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("with_like", [False, True])
def test_round_trip(tmp_path, with_like):
    tree = {
        "dtypes": {d: jnp.asarray(np.array([[0, 1, 2]]), jnp.dtype(d)) for d in DTYPES},
        "numpy": (np.arange(3), np.float32(2.5), np.array(["a", "bc"]), np.zeros((0, 4))),
        "scalars": [1, 2.5, True, "text", 1 + 2j, float("inf"), None],
        "keys": (jax.random.key(3), jax.random.split(jax.random.key(0, impl="rbg"), 2)),
        "odd": jnp.array([np.nan, -0.0, np.inf, 5e-324]),
        "empty": {},
    }
    path = save(tmp_path / "new" / "tree.npz", tree)
    same(load(path, like=tree if with_like else None), tree)
    with np.load(path) as archive:  # strangers to the library can read the arrays
        assert any(name.startswith("leaf_") for name in archive.files)


def test_modules_come_back_with_their_static_fields(tmp_path):
    raster = Raster(np.eye(3, 8), 0.02, labels=["a", "b", "c"], start=np.asarray(1.5))
    fit = Fit(
        {"raster": raster, "weights": (jnp.ones(2), [jnp.zeros(1)])},
        loss=jnp.asarray(2.0),
        error=None,
        result=RESULTS.stalled,
        stats={"num_steps": jnp.asarray(3)},
        history={"loss": jnp.arange(3.0)},
        provenance={"seed": 3, "nested": {"a": [1, 2]}},
    )
    path = save(tmp_path / "fit.npz", fit, header={"configuration": {"lags": 2}, "seed": 3})
    again = load(path)
    assert isinstance(again, Fit)
    assert isinstance(again.value["raster"], Raster)
    assert again.value["raster"].labels == ("a", "b", "c")
    assert again.provenance == fit.provenance
    assert again.result == RESULTS.stalled
    same(again.value, fit.value)
    header = read_header(path)
    assert header["header"] == {"configuration": {"lags": 2}, "seed": 3}
    assert header["versions"]["jax"] == jax.__version__
    assert header["structure"]["module"] == "neurofield.fit:Fit"


def test_outcomes_of_a_batch(tmp_path):
    results = jax.vmap(lambda x: RESULTS.where(x > 0, RESULTS.successful, RESULTS.stalled))(
        jnp.array([1, -1])
    )
    path = save(tmp_path / "x.npz", {"r": results})
    np.testing.assert_array_equal(load(path)["r"]._value, results._value)


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


def test_foreign_structures_need_like(tmp_path):
    tree = Pair(jnp.ones(2), jnp.zeros(3, jnp.float32))
    path = save(tmp_path / "x.npz", tree)
    with pytest.raises(ValueError, match=r"x\.npz.*Pair.*like="):
        load(path)
    same(load(path, like=jax.eval_shape(lambda: tree)), tree)
    with pytest.raises(ValueError, match=r"leaf\.b.*\(3,\).*expected \(4,\)"):
        load(path, like=Pair(jnp.ones(2), jnp.zeros(4, jnp.float32)))
    with pytest.raises(ValueError, match=r"float32, expected .* float64"):
        load(path, like=Pair(jnp.ones(2), jnp.zeros(3)))
    with pytest.raises(ValueError, match="another structure"):
        load(path, like={"a": jnp.ones(2)})


def test_unstorable_leaves_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"\['f'\].*function"):
        save(tmp_path / "x.npz", {"f": jnp.sin})
    with pytest.raises(ValueError, match="Python objects"):
        save(tmp_path / "x.npz", {"f": np.array([{}])})
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "x.npz", {}, header={"f": jnp.ones(1)})
    assert list(tmp_path.iterdir()) == []


def test_never_overwrites_unasked(tmp_path):
    path = save(tmp_path / "x.npz", 1)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save(path, 2)
    assert load(path) == 1
    save(path, 2, overwrite=True)
    assert load(path) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_truncated(tmp_path, kept):
    path = save(tmp_path / "x.npz", {"a": jnp.arange(1000.0)})
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"x\.npz is not a file .* cut short or damaged"):
        load(path)


def test_flipped_bit(tmp_path):
    path = save(tmp_path / "x.npz", {"a": jnp.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz.*damaged"):
        load(path)


def rewrite_header(path: Path, change):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["header.json"])
    change(header)
    members["header.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_wrong_version_and_strange_files(tmp_path):
    path = save(tmp_path / "x.npz", {"a": jnp.ones(1)})
    rewrite_header(path, lambda h: h.update(format_version=99))
    with pytest.raises(ValueError, match=r"x\.npz has format version 99"):
        load(path)
    np.savez(tmp_path / "y.npz", a=np.ones(2))
    with pytest.raises(ValueError, match=r"y\.npz is not a file"):
        load(tmp_path / "y.npz")
    (tmp_path / "z.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"z\.npz is not a file"):
        load(tmp_path / "z.npz")
    with pytest.raises(FileNotFoundError, match=r"w\.npz"):
        load(tmp_path / "w.npz")


@pytest.mark.parametrize(
    "klass",
    [
        *["os:system", "subprocess:Popen", "neurofield.__main__:main", "neurofield.fit:load"],
        *["neurofield.fit._store:os", "neurofieldx:Fit", "neurofield.fit:__class__"],
    ],
)
def test_files_name_only_our_classes(tmp_path, klass):
    path = save(tmp_path / "x.npz", Raster(np.eye(3, 8), 0.02))
    rewrite_header(path, lambda h: h["structure"].update(module=klass))
    with pytest.raises(ValueError, match=r"x\.npz cannot be rebuilt"):
        load(path)


def test_64_bit_arrays_are_not_cut(tmp_path):
    path = save(tmp_path / "x.npz", {"a": jnp.ones(1)})
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        load(path)


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_space_keeps_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "x.npz", 1)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"could not write .*x\.npz: No space left on device") as info:
        save(path, jnp.arange(1000.0), overwrite=True)
    assert info.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert load(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_a_real_limit_on_file_size(tmp_path):
    """The system itself refuses the bytes, half-way through the file."""
    script = textwrap.dedent(
        """
        import resource, signal, sys, numpy as np
        from neurofield.fit import save
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        save(sys.argv[1], np.zeros(100_000), overwrite=True)
        """
    )
    path = save(tmp_path / "x.npz", 1)

    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode != 0
    assert "could not write" in done.stderr
    assert "File too large" in done.stderr
    assert load(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_atomic_write(tmp_path):
    path = atomic_write(tmp_path / "a.txt", "é")
    assert path.read_bytes() == "é".encode()
    atomic_write(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    link = tmp_path / "link.txt"
    link.symlink_to(path)
    atomic_write(link, lambda f: f.write(b"newer"), overwrite=True)
    assert link.is_symlink()
    assert path.read_bytes() == b"newer"
    with pytest.raises(FileExistsError, match="not a regular file"):
        atomic_write("/dev/null", "x", overwrite=True)
    with pytest.raises(OSError, match="could not write"):
        atomic_write(path / "below.txt", "a file is no folder")
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "b.txt", interrupt)

    def rival(file):
        file.write(b"mine")
        (tmp_path / "c.txt").write_text("theirs")

    with pytest.raises(FileExistsError, match="exists already"):
        atomic_write(tmp_path / "c.txt", rival)
    assert (tmp_path / "c.txt").read_text() == "theirs"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "c.txt", "link.txt"]


def interrupt(file):
    file.write(b"half")
    raise KeyboardInterrupt


def test_fields_must_agree(tmp_path):
    path = save(tmp_path / "x.npz", Raster(np.eye(3, 8), 0.02))
    rewrite_header(path, lambda h: h["structure"]["fields"].pop("labels"))
    with pytest.raises(ValueError, match="has fields"):
        load(path)
