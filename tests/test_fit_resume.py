"""A run that is killed or interrupted goes on from its checkpoint as if nothing had happened."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neurofield.fit import RESULTS, FitError, load, minimise, save

ROOT = Path(__file__).parents[1]

# Argument 1: the checkpoint; 2: where the fit goes; 3: a pause in each step, in seconds.
SCRIPT = """
import sys, time
import jax, jax.numpy as jnp, numpy as np, optax
from neurofield.fit import minimise, save
jax.config.update("jax_enable_x64", True)
pause = float(sys.argv[3])

def wait(x):
    time.sleep(pause)
    return np.zeros_like(x)

def loss(params, data, key):
    noisy = data + 0.1 * jax.random.normal(key, data.shape)
    error = jnp.mean((jnp.tanh(params["w"] * noisy) - params["b"] * noisy**2) ** 2)
    # The pause adds nothing; it is there in both runs, so both are the same program.
    fixed = jax.lax.stop_gradient(error)
    return error + jax.pure_callback(wait, jax.ShapeDtypeStruct((), fixed.dtype), fixed)

fit = minimise(
    loss,
    {"w": jnp.asarray(2.0), "b": jnp.asarray(1.0)},
    args=(jnp.linspace(-1, 1, 50),),
    optimiser=optax.adam(0.01),
    key=jax.random.key(7),
    max_steps=300,
    checkpoint=sys.argv[1],
    checkpoint_every=0.0,
    resume=True,
)
save(sys.argv[2], fit)
"""


def command(checkpoint, out, pause):
    script = [sys.executable, "-c", SCRIPT, str(checkpoint), str(out), str(pause)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(script, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def wait_for(path, process, timeout=60.0):
    """Until the first checkpoint is there."""
    end = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def same_fit(a, b):
    assert a.result == b.result
    for x, y in zip(
        jax.tree.leaves((a.value, a.loss, a.stats, a.history)),
        jax.tree.leaves((b.value, b.loss, b.stats, b.history)),
        strict=True,
    ):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    finish(command(folder / "checkpoint.npz", folder / "fit.npz", 0))
    return load(folder / "fit.npz")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed(tmp_path, unbroken, blow):
    checkpoint, out = tmp_path / "checkpoint.npz", tmp_path / "fit.npz"
    process = command(checkpoint, out, 0.05)
    wait_for(checkpoint, process)
    process.send_signal(blow)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if blow == signal.SIGINT:
        assert "KeyboardInterrupt: minimise stopped at step" in errors
        assert "resume=True" in errors
    assert not out.exists()
    steps = len(load(checkpoint)["losses"])
    assert 0 < steps < 300
    finish(command(checkpoint, out, 0))
    same_fit(load(out), unbroken)


def quartic(x, shift=0.0):
    return jnp.sum((x - shift) ** 4 + (x - 1) ** 2)


def test_more_steps_are_the_same_as_one_long_run(tmp_path):
    for name, optimiser in {"adam": optax.adam(0.1), "lbfgs": optax.lbfgs()}.items():
        start = jnp.array([3.0, -2.0])
        run = {"optimiser": optimiser, "atol": 1e-12, "rtol": 0.0}
        long = minimise(quartic, start, max_steps=40, throw=False, **run)
        path = tmp_path / f"{name}.npz"
        with pytest.raises(FitError, match="max_steps"):
            minimise(quartic, start, max_steps=4, checkpoint=path, **run)
        part = minimise(
            quartic, start, max_steps=40, checkpoint=path, resume=True, throw=False, **run
        )
        same_fit(part, long)


def test_restarts_resume(tmp_path):
    run = {"num_restarts": 3, "restart_key": jax.random.key(0), "throw": False}
    long = minimise(quartic, jnp.ones(2) * 3, **run)
    path = tmp_path / "x.npz"
    minimise(quartic, jnp.ones(2) * 3, checkpoint=path, max_steps=3, **run)
    same_fit(minimise(quartic, jnp.ones(2) * 3, checkpoint=path, resume=True, **run), long)


def test_checkpoints_of_other_problems_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    start = jnp.ones(2) * 3
    run = {"checkpoint": path, "max_steps": 3, "throw": False}
    fit = minimise(quartic, start, **run)
    assert fit.result == RESULTS.nonlinear_max_steps_reached
    with pytest.raises(FileExistsError, match="resume=True"):
        minimise(quartic, start, **run)
    run["resume"] = True
    with pytest.raises(ValueError, match=r"x\.npz is the checkpoint of another problem: .*state"):
        minimise(quartic, jnp.ones(3), **run)
    with pytest.raises(ValueError, match=r"another problem: atol"):
        minimise(quartic, start, atol=1.0, **run)
    with pytest.raises(ValueError, match=r"another problem: the loss at the start was"):
        minimise(quartic, start, args=(0.5,), **run)
    with pytest.raises(ValueError, match=r"another problem: lags"):
        minimise(quartic, start, provenance={"lags": 3}, **run)
    same_fit(minimise(quartic, start, **run), fit)
    other = save(tmp_path / "y.npz", 3)
    with pytest.raises(ValueError, match=r"y\.npz is not a checkpoint"):
        minimise(quartic, start, **(run | {"checkpoint": other}))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"x\.npz .* cut short"):
        minimise(quartic, start, **run)
    with pytest.raises(ValueError, match="needs checkpoint="):
        minimise(quartic, start, resume=True)


def test_ctrl_c_without_throw_returns_the_fit_so_far(tmp_path):
    calls = []

    def interrupt(x):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return np.zeros_like(x)

    def loss(x):
        fixed = jax.lax.stop_gradient(x)
        return jnp.sum(x**2 + jax.pure_callback(interrupt, jax.typeof(fixed), fixed))

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    fit = minimise(
        loss, jnp.ones(2), optimiser=optax.sgd(1e-4), max_steps=10**6, throw=False,
        checkpoint=tmp_path / "x.npz",
    )  # fmt: skip
    assert fit.result == RESULTS.stopped
    assert len(fit.history["loss"]) == fit.stats["num_steps"]
    assert (tmp_path / "x.npz").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_disk_that_fills_up_does_not_end_the_run(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    run = {"checkpoint": path, "checkpoint_every": 0.0}
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(1)
        if len(calls) > 2:  # the first checkpoint and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(RuntimeWarning, match=r"x\.npz: No space left .* last checkpoint is kept"):
        fit = minimise(quartic, jnp.ones(2) * 3, **run)
    assert fit.result == RESULTS.successful
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    with pytest.raises(OSError, match="No space left"):
        minimise(quartic, jnp.ones(2) * 3, checkpoint=tmp_path / "y.npz")
    monkeypatch.undo()
    same_fit(minimise(quartic, jnp.ones(2) * 3, resume=True, **run), fit)
