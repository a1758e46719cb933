"""Checkpoints of a simulation: a folder with one file a chunk, and the state at its end."""

import hashlib
import os
import re
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neurofield._types import PyTree
from neurofield.fit import load, read_header, save

_STATE = "state.npz"


class Checkpoint:
    """Chunks that are done, in memory and, if a folder was given, on disk.

    Host code: the folder is written chunk by chunk, so that what is done is never written twice.
    The state is renamed into place last: a chunk counts only if the state after it is there.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any], num_done: int):
        self._folder, self._identity, self._num_done = folder, identity, num_done

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str] | None,
        resume: bool,
        inputs: PyTree,
        options: PyTree,
        num_bins: int,
    ) -> "Checkpoint":
        """Raises `ValueError` for the checkpoint of another simulation."""
        if folder is None:
            if resume:
                raise ValueError("resume=True needs checkpoint=, the folder to go on from.")
            return cls(None, {}, 0)
        path = Path(folder)
        identity = {"inputs": digest(inputs), "options": repr(options), "num_bins": num_bins}
        state = path / _STATE
        if not resume:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise FileExistsError(
                    f"{path} exists already: choose another folder for the checkpoint, or pass "
                    "resume=True to go on from it."
                )
            path.mkdir(parents=True, exist_ok=True)
            return cls(path, identity, 0)
        if not state.exists():
            path.mkdir(parents=True, exist_ok=True)
            return cls(path, identity, 0)
        header = read_header(state)["header"]
        found = header.get("simulation")
        if found != identity:
            differ = [k for k in identity if not found or found.get(k) != identity[k]]
            raise ValueError(
                f"{path} is the checkpoint of another simulation: {', '.join(differ)} differ. Use "
                "the key, network and settings of the first run, or another folder."
            )
        return cls(path, identity, int(header["num_done"]))

    def load(self, carry: PyTree, like: PyTree) -> tuple[list[PyTree], PyTree]:
        """The bins of the chunks that are done, and the state to go on from."""
        if self._folder is None or self._num_done == 0:
            return [], carry
        done = [load(self._folder / _chunk(i), like=like) for i in range(self._num_done)]
        return [jax.tree.map(np.asarray, bins) for bins in done], load(
            self._folder / _STATE, like=carry
        )

    def save(self, carry: PyTree, bins: PyTree) -> None:
        if self._folder is None:
            return
        # A chunk without its state is left by a run that was killed in between.
        save(self._folder / _chunk(self._num_done), bins, overwrite=True)
        self._num_done += 1
        header = {"simulation": self._identity, "num_done": self._num_done}
        save(self._folder / _STATE, carry, header=header, overwrite=True)


def _chunk(index: int) -> str:
    return f"chunk_{index:06d}.npz"


def digest(tree: PyTree) -> str:
    """A fingerprint of a pytree's structure, functions and numbers, the same in every process."""
    leaves, structure = jax.tree.flatten(tree)
    total = hashlib.sha256("\n".join(_described(structure)).encode())
    for leaf in leaves:
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _described(value: Any, within: tuple[Any, ...] = ()) -> Iterator[str]:
    """A static value in words without addresses in memory: a function by its name and its code.

    Of a function, what it holds (defaults, closure) counts too, the global variables that it reads
    do not. `within`: the functions that hold the value.
    """
    if isinstance(value, jax.tree_util.PyTreeDef):
        node = value.node_data()
        yield from _described("leaf" if node is None else node, within)
        for child in value.children():
            yield from _described(child, within)
    elif isinstance(value, types.CodeType):
        yield f"{value.co_name} {value.co_code.hex()} {value.co_names}"
        yield from _described(value.co_consts, within)
    elif isinstance(value, partial):
        yield from _described((value.func, value.args, value.keywords), within)
    elif isinstance(value, types.FunctionType):
        yield f"{value.__module__}.{value.__qualname__}"
        if value in within:  # it calls itself
            return
        within = (*within, value)
        yield from _described((value.__code__, value.__defaults__, value.__kwdefaults__), within)
        yield from _described([cell.cell_contents for cell in value.__closure__ or ()], within)
    elif callable(getattr(value, "__wrapped__", None)):
        yield from _described(value.__wrapped__, within)
    elif isinstance(value, types.MethodType):
        yield from _described((value.__func__, value.__self__), within)
    elif isinstance(value, tuple | list):
        yield f"{type(value).__name__} of {len(value)}"
        for part in value:
            yield from _described(part, within)
    elif isinstance(value, dict):
        yield from _described(list(value.items()), within)
    elif isinstance(value, jax.Array | np.ndarray):
        yield digest([value])
    elif isinstance(value, eqx.Module):
        yield digest(value)
    else:
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(value))
