"""Nested tables written as TOML, and compared; rows written as CSV."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def tables_to_toml(tables: Mapping[str, Any], comment: str) -> str:
    """Tables as a TOML file that reads back as them."""
    lines = [f"# {comment}"]
    later = []
    for key, value in tables.items():
        nested = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
        if isinstance(value, dict) or nested:
            later.append((key, value))
        else:
            lines.append(f"{_key(key)} = {_inline(value)}")
    for key, value in later:
        if isinstance(value, list):
            for one in value:
                lines += ["", f"[[{_key(key)}]]", *_entries(one)]
        elif value and all(isinstance(own, dict) for own in value.values()):
            for name, own in value.items():
                lines += ["", f"[{_key(key)}.{_key(name)}]", *_entries(own)]
        else:
            lines += ["", f"[{_key(key)}]", *_entries(value)]
    return "\n".join(lines) + "\n"


def _entries(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_inline(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_entries(value)) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys under which two tables do not hold the same."""
    left, right = dict(_flat(one)), dict(_flat(other))
    return sorted(k for k in left.keys() | right.keys() if left.get(k) != right.get(k))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def finite(value: float) -> float | None:
    """For JSON and CSV, which have no NaN."""
    return value if math.isfinite(value) else None


def rows_to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
