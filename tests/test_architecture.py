"""Who may import whom, read from the source of every file; and an import that does nothing else."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import PACKAGE, ROOT, python, rooms

TIERS = {
    **dict.fromkeys(
        ("_types", "_results", "_flow", "_numerics", "_validate", "_files", "_toml"), 0
    ),
    **dict.fromkeys(("recording", "statistics", "fit"), 1),
    "network": 2,
    **dict.fromkeys(("lattice", "meanfield", "markov", "renorm"), 3),
    **dict.fromkeys(("nn", "compare"), 4),
    **dict.fromkeys(("plot", "report", "cli", "__main__"), 5),
}
# Same-tier imports that are allowed; in the highest tier all of them are.
NEIGHBOURS = {("statistics", "recording")}
# Slow to import or optional: imported inside the functions that need them, except in these rooms.
DEFERRED = {
    **dict.fromkeys(("pynapple", "neo", "pynwb", "xarray", "h5py", "rich", "pandas"), ()),
    **dict.fromkeys(("networkx", "sklearn"), ()),
    "matplotlib": ("plot",),
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MAX_LINES = 600


@dataclass(frozen=True)
class Import:
    module: str  # absolute dotted name
    name: str | None  # what `from module import name` takes; None for `import module`
    line: int
    deferred: bool  # inside a function or under TYPE_CHECKING


def sources() -> list[Path]:
    """The importable files: a script beside data, in a folder that is no package, is not one."""
    return sorted(p for p in PACKAGE.rglob("*.py") if (p.parent / "__init__.py").exists())


def place(path: Path) -> tuple[str, ...]:
    """The dotted name of a file below neurofield, as a tuple; `()` for the top `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> list[Import]:
    """Every import of a file, relative ones resolved."""
    package = ("neurofield", *path.parent.relative_to(PACKAGE).parts)

    def walk(node: ast.AST, deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(a.name, None, child.lineno, deferred) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                module = ".".join((*base, *filter(None, [child.module])))
                yield from (Import(module, a.name, child.lineno, deferred) for a in child.names)
            else:
                lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
                )
                yield from walk(child, deferred or lazy)

    return list(walk(ast.parse(path.read_text()), False))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def internal(path: Path) -> Iterator[tuple[Import, tuple[str, ...]]]:
    """Imports of neurofield itself, with the dotted name that each one reaches."""
    for found in imports(path):
        parts = tuple(found.module.split("."))
        if parts[0] == "neurofield":
            # `from neurofield import lattice` and `from . import _x` name a module.
            named = parts[1:] if found.name is None else (*parts[1:], found.name)
            yield found, named


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file(path):
    here = place(path)
    problems = []
    if here:
        assert here[0] in TIERS, f"give {here[0]!r} a tier in {Path(__file__).name}"
    for found, target in internal(path):
        at = where(path, found.line)
        if not target or not here:
            problems.append(f"{at}: import what is needed from neurofield, not all of it")
            continue
        if target[0] in (here[0], "__version__"):
            continue
        if target[0] not in TIERS:
            problems.append(f"{at}: imports {target[0]!r} from neurofield, which is not a room")
            continue
        mine, theirs = TIERS[here[0]], TIERS[target[0]]
        highest = max(TIERS.values())
        allowed = theirs < mine or (here[0], target[0]) in NEIGHBOURS or mine == theirs == highest
        if not allowed:
            problems.append(f"{at}: tier {mine} may not import {target[0]} (tier {theirs})")
        if any(part.startswith("_") for part in target[1:]):
            problems.append(f"{at}: imports the private {'.'.join(target)}; use its public name")
    for found in imports(path):
        at = where(path, found.line)
        top = found.module.split(".")[0]
        if found.module.startswith("jax._src") or (found.module, found.name) == ("jax", "_src"):
            problems.append(f"{at}: imports jax._src")
        if found.name == "*":
            problems.append(f"{at}: import *")
        if top in PICKLES:
            problems.append(f"{at}: imports {top}; files are arrays with a JSON header")
        if top == "flax" and here[:1] != ("nn",):
            problems.append(f"{at}: flax belongs in nn/")
        if (
            top in DEFERRED
            and not found.deferred
            and here[:1] not in [(room,) for room in DEFERRED[top]]
        ):
            problems.append(f"{at}: import {top} inside the function that needs it")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "config.update" or called.endswith("jax.config.update"):
                problems.append(f"{where(path, node.lineno)}: changes JAX's configuration")
        if isinstance(node, ast.keyword) and ast.unparse(node) == "allow_pickle=True":
            problems.append(f"{where(path, node.value.lineno)}: allows pickles")
    assert not problems, "\n".join(problems)


def test_tensornetwork_is_imported_in_one_file():
    files = {p for p in sources() if any(i.module.startswith("tensornetwork") for i in imports(p))}
    assert len(files) <= 1, files


@pytest.mark.parametrize("room", rooms())
def test_room_reexports_each_name_once(room):
    """A room is private modules and one `__init__` that re-exports their names as they are."""
    folder = PACKAGE.joinpath(*room.split("."))
    public = [
        p.name
        for p in folder.iterdir()
        if (p.suffix == ".py" or (p / "__init__.py").exists()) and not p.name.startswith("_")
    ]
    modules = [name for name in public if name.endswith(".py")]
    assert not modules, f"modules of a room are private: rename {modules} to _name.py"
    names = []
    for node in ast.parse((folder / "__init__.py").read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        assert isinstance(node, ast.ImportFrom), f"{room}: more than re-exports: {ast.dump(node)}"
        for alias in node.names:
            assert alias.asname == alias.name, f"{room}: write `{alias.name} as {alias.name}`"
            assert alias.name in public or not alias.name.startswith("_"), f"{room}: {alias.name}"
            names.append(alias.name)
    assert len(names) == len(set(names)), f"{room}: a name is re-exported twice: {sorted(names)}"


@pytest.mark.parametrize(
    "path",
    sorted(
        p
        for top in ("neurofield", "tests", "bench", "notebooks")
        for p in ROOT.glob(f"{top}/**/*.py")
    ),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) < MAX_LINES, "split it by concept"


def test_importing_the_package_loads_neither_jax_nor_a_room():
    out = python(
        "-c",
        "import sys, neurofield\n"
        "rooms = {m for m in sys.modules if m.startswith('neurofield.')}\n"
        "assert not rooms, rooms\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n",
    )
    assert out == ""


def test_importing_every_room_has_no_side_effects():
    """No configuration changed, nothing printed, no array made: no backend could be started."""
    out = python(
        "-c",
        "import importlib, os, sys, jax\n"
        "before = dict(jax.config.values), dict(os.environ), os.getcwd()\n"
        "for room in sys.argv[1:]:\n"
        "    importlib.import_module(f'neurofield.{room}')\n"
        # Importing a part of jax may register options of its own.
        "after = {name: jax.config.values[name] for name in before[0]}\n"
        "assert (after, dict(os.environ), os.getcwd()) == before\n",
        *rooms(),
        JAX_PLATFORMS="no_such_platform",
    )
    assert out == ""
