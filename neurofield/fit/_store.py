"""Files of arrays with a JSON header: `save`, `load`, `read_header`. Never pickle."""

import dataclasses
import datetime
import importlib
import io
import json
import math
import os
import platform
import zipfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from neurofield import __version__
from neurofield._files import atomic_write
from neurofield._results import RESULTS
from neurofield._types import PyTree

FORMAT = "neurofield"
FORMAT_VERSION = 1
_HEADER = "header.json"
_OUTCOME = type(RESULTS.successful)  # the class of any item of an equinox Enumeration


def save(
    path: str | os.PathLike[str],
    tree: PyTree,
    *,
    header: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a pytree to one file: a zip of `.npy` arrays and a JSON header (host only).

    Leaves may be JAX or NumPy arrays of any dtype, typed PRNG keys, outcome codes, Python numbers
    and strings. `numpy.load` can open the file too. `header` is JSON-able and comes back from
    `read_header(path)["header"]`: a seed, a configuration, where the data came from.

    Trees of `neurofield` modules, dicts, lists and tuples can be loaded by `load(path)` alone;
    anything else (an optimiser's state, a user's own class) by `load(path, like=tree)`.

    Raises `FileExistsError` unless `overwrite`, `OSError` if the disk is full (an old file is kept,
    no new one is left), `ValueError` for a leaf that cannot be stored, naming it.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_outcome)
    entries, arrays = [], {}
    for index, (key_path, leaf) in enumerate(leaves):
        entry, array = _encode_leaf(jax.tree_util.keystr(key_path), leaf)
        entries.append(entry)
        if array is not None:
            arrays[f"leaf_{index}.npy"] = array
    numbered = jax.tree.unflatten(treedef, [_Slot(i) for i in range(len(leaves))])
    try:
        structure, reason = _describe(numbered), None
    except _IndescribableError as error:
        structure, reason = None, str(error)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "x64": jnp.zeros(0).dtype == np.float64,
        "header": dict(header or {}),
        "leaves": entries,
        "structure": structure,
        "needs_like": reason,
    }
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"header must be made of JSON's types (finite numbers, strings, lists, dicts): {error}."
        ) from error

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_HEADER, text)
            for name, array in arrays.items():
                with archive.open(name, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    return atomic_write(path, write, overwrite=overwrite)


def load(path: str | os.PathLike[str], like: PyTree = None) -> PyTree:
    """Read back what `save` wrote (host only).

    With `like` (a tree of the same structure; its leaves may be `jax.ShapeDtypeStruct`) the leaves
    fill that structure, and shapes and dtypes must agree. Without, the structure is the one the
    file describes; only classes of `neurofield` are ever looked up, and no code in the file is run.

    Raises `ValueError` naming the file if it is cut short, damaged, of another format or version,
    does not fit `like`, or holds 64-bit arrays while JAX's x64 mode is off.
    """
    path = Path(path)
    header, read = _open(path)
    if like is None and header["structure"] is None:
        raise ValueError(
            f"{path} holds a structure that only its writer knows ({header['needs_like']}): pass "
            "like=, a tree of that structure."
        )
    try:
        leaves = [_decode_leaf(path, i, entry, read) for i, entry in enumerate(header["leaves"])]
        if like is None:
            return _rebuild(header["structure"], leaves)
    except (KeyError, TypeError, AttributeError, ImportError, IndexError) as error:
        raise ValueError(
            f"{path} cannot be rebuilt by neurofield {__version__} (it was written by "
            f"{header['versions'].get('neurofield')}): {error!r}. Load it with that version."
        ) from error
    expected, treedef = jax.tree_util.tree_flatten_with_path(like, is_leaf=_is_outcome)
    names = [jax.tree_util.keystr(key_path) for key_path, _ in expected]
    found = [entry["path"] for entry in header["leaves"]]
    if names != found:
        odd = sorted(set(names) ^ set(found))[:5]
        raise ValueError(
            f"{path} holds another structure than `like`: {len(found)} leaves against "
            f"{len(names)}; not in both: {odd or 'none, but their order differs'}."
        )
    for name, (_, wanted), leaf in zip(names, expected, leaves, strict=True):
        _check_like(path, name, wanted, leaf)
    return jax.tree.unflatten(treedef, leaves)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON header alone: versions, device, date, leaves with shapes, the writer's `header`."""
    return _open(Path(path))[0]


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("jax", "numpy", "equinox", "optax")}
    return {
        "neurofield": __version__,
        "python": platform.python_version(),
        **packages,
    }


# Leaves: an entry of the header, and for arrays a member of the archive.


def _is_outcome(x: Any) -> bool:
    return isinstance(x, _OUTCOME)


def _encode_leaf(name: str, leaf: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    entry: dict[str, Any] = {"path": name}
    if _is_outcome(leaf):
        # By name: numbers shift when an enumeration gains an item.
        names = {int(v._value): k for k, v in leaf._enumeration._name_to_item.items()}
        values = np.asarray(leaf._value)
        outcomes = [names[int(v)] for v in values.ravel()]
        try:
            klass = _class_path(leaf._enumeration)
        except _IndescribableError as error:
            raise ValueError(
                f"leaf{name} is an outcome of {error}: promote it to neurofield's RESULTS."
            ) from error
        return entry | {"outcome": outcomes, "shape": values.shape, "class": klass}, None
    if isinstance(leaf, bool | int | str) or leaf is None:
        return entry | {"python": leaf}, None
    if isinstance(leaf, float | complex) and not isinstance(leaf, np.generic):
        return entry | {"number": repr(leaf), "type": type(leaf).__name__}, None
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        entry["key"] = str(jax.random.key_impl(leaf))
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise ValueError(
            f"leaf{name or ' itself'} is a {type(leaf).__name__}, which cannot be stored: keep "
            "functions in static fields and save arrays, numbers and strings."
        )
    array = np.asarray(leaf)
    if array.dtype.hasobject:
        raise ValueError(f"leaf{name} holds Python objects: only plain arrays are stored.")
    kind = "jax" if isinstance(leaf, jax.Array) else type(leaf).__name__
    entry |= {"dtype": array.dtype.name, "shape": array.shape, "kind": kind}
    return entry, array


def _decode_leaf(path: Path, index: int, entry: dict[str, Any], read: Callable) -> Any:
    if "outcome" in entry:
        enumeration = _find_class(entry["class"])
        try:
            values = [enumeration._name_to_item[name]._value for name in entry["outcome"]]
        except KeyError as error:
            raise ValueError(f"{path} holds an unknown outcome code {error}.") from error
        value = np.asarray(values, np.int32).reshape(entry["shape"])
        item = enumeration.successful
        return eqx.tree_at(lambda i: i._value, item, value)
    if "python" in entry:
        return entry["python"]
    if "number" in entry:
        return {"float": float, "complex": complex}[entry["type"]](entry["number"])
    array = read(f"leaf_{index}.npy")
    if array.dtype.kind == "V":  # bfloat16 and its kin, which .npy files do not know
        array = array.view(jnp.dtype(entry["dtype"]))
    if array.dtype.name != entry["dtype"] or array.shape != tuple(entry["shape"]):
        raise ValueError(f"{path} is damaged: leaf{entry['path']} is not what its header says.")
    if entry["kind"] != "jax":
        return array if entry["kind"] == "ndarray" else array[()]  # a NumPy scalar
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"{path} holds {array.dtype} at leaf{entry['path']}, which JAX would cut to 32 bits: "
            'call jax.config.update("jax_enable_x64", True) first.'
        )
    value = jnp.asarray(array)
    return jax.random.wrap_key_data(value, impl=entry["key"]) if "key" in entry else value


def _check_like(path: Path, name: str, wanted: Any, leaf: Any) -> None:
    shape, dtype = getattr(wanted, "shape", None), getattr(wanted, "dtype", None)
    found = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if (shape, dtype) != found:
        raise ValueError(
            f"{path} does not fit `like` at leaf{name}: the file has shape {found[0]} and dtype "
            f"{found[1]}, expected {shape} and {dtype}."
        )


def _open(path: Path) -> tuple[dict[str, Any], Callable[[str], np.ndarray]]:
    """The header, and a reader of members that turns damage into a `ValueError`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file.")

    def member(name: str) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"{path} is not a file that neurofield.fit.save wrote, or it is cut short or "
                f"damaged: {error}."
            ) from error

    def read(name: str) -> np.ndarray:
        try:
            return np.lib.format.read_array(io.BytesIO(member(name)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {error}.") from error

    try:
        header = json.loads(member(_HEADER))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: its header is not text.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: its header is not JSON ({error}).") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not a file that neurofield.fit.save wrote.")
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {header.get('format_version')}, this neurofield "
            f"({__version__}) reads version {FORMAT_VERSION}: it was written by "
            f"neurofield {header['versions'].get('neurofield')}, load it with that."
        )
    return header, read


# Structure: the tree with its leaves replaced by their numbers, as JSON.


@dataclasses.dataclass(frozen=True)
class _Slot:
    index: int


class _IndescribableError(Exception):
    pass


def _describe(node: Any) -> Any:
    if isinstance(node, _Slot):
        return {"leaf": node.index}
    if node is None or isinstance(node, bool | int | str):
        return {"python": node}
    if type(node) is float:
        return {"python": node} if math.isfinite(node) else {"float": repr(node)}
    if isinstance(node, eqx.Module):
        fields = {
            field.name: _describe(getattr(node, field.name))
            for field in dataclasses.fields(node)
            if hasattr(node, field.name)
        }
        return {"module": _class_path(type(node)), "fields": fields}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_describe(x) for x in node]}
    if type(node) is dict and all(isinstance(key, str) for key in node):
        return {"dict": {key: _describe(x) for key, x in node.items()}}
    raise _IndescribableError(f"a {type(node).__name__}")


def _rebuild(node: dict[str, Any], leaves: list[Any]) -> Any:
    match node:
        case {"leaf": index}:
            return leaves[index]
        case {"python": value}:
            return value
        case {"float": text}:
            return float(text)
        case {"list": items}:
            return [_rebuild(x, leaves) for x in items]
        case {"tuple": items}:
            return tuple(_rebuild(x, leaves) for x in items)
        case {"dict": items}:
            return {key: _rebuild(x, leaves) for key, x in items.items()}
        case {"module": class_path, "fields": fields}:
            values = {name: _rebuild(x, leaves) for name, x in fields.items()}
            return _rebuild_module(_find_class(class_path), values)
    raise TypeError(f"unknown kind of node {sorted(node)}")


def _rebuild_module(cls: Any, values: dict[str, Any]) -> Any:
    if not issubclass(cls, eqx.Module):
        raise TypeError(f"{cls} is not a module")
    known = {field.name for field in dataclasses.fields(cls)}
    if set(values) != known:
        raise TypeError(f"{cls.__name__} has fields {sorted(known)}, the file {sorted(values)}")
    # As when JAX rebuilds a pytree, `__init__` is not run: it may take other arguments.
    module = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(module, name, value)
    for parent in cls.__mro__:
        if "__check_init__" in parent.__dict__:
            parent.__check_init__(module)
    return module


def _class_path(cls: type) -> str:
    """`room:Class`, by its public path where it has one, so that files survive a move inside."""
    parts = cls.__module__.split(".")
    if parts[0] != "neurofield":
        raise _IndescribableError(f"{cls.__module__}.{cls.__qualname__}")
    private = next((i for i, part in enumerate(parts) if part.startswith("_")), len(parts))
    public = ".".join(parts[:private])
    if private > 1 and getattr(importlib.import_module(public), cls.__name__, None) is cls:
        return f"{public}:{cls.__name__}"
    return f"{cls.__module__}:{cls.__qualname__}"


def _find_class(class_path: str) -> Any:
    """The class of a path; a file may name only classes that neurofield itself defines."""
    module, _, name = class_path.partition(":")
    parts = module.split(".")
    if (
        parts[0] != "neurofield"
        or any(p.startswith("__") for p in parts)
        or not name.isidentifier()
    ):
        raise TypeError(f"{class_path!r} is not a class of neurofield")
    cls = getattr(importlib.import_module(module), name)
    if not isinstance(cls, type) or cls.__module__.split(".")[0] != "neurofield":
        raise TypeError(f"{class_path!r} is not a class of neurofield")
    return cls
