"""The tables of options in the manuals, made from the code: ``python -m tests.options`` writes them anew.

A table stands in its manual between two lines, ``<!-- options: Limits -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from supervisor import Admission, Backoff, Drain, Heartbeat, Limits, RestartLimit, Timeouts

ROOT = Path(__file__).parent.parent
OPTIONS: dict[str, type] = {
    one.__name__: one for one in (Timeouts, Heartbeat, Limits, RestartLimit, Backoff, Admission, Drain)
}
MANUALS = [ROOT / "supervisor" / "README.md", ROOT / "supervisor" / "admission" / "README.md"]
_PLACE = re.compile(r"(?ms)^<!-- options: (\w+) -->\n(.*?)^<!-- end -->$")


def documented(options: type) -> dict[str, tuple[str, str]]:
    """The fields of a class of options: the source of the default, and the text below the field."""
    source = Path(options.__post_init__.__code__.co_filename).read_text()  # type: ignore[attr-defined]
    (definition,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name == options.__name__
    ]
    found: dict[str, tuple[str, str]] = {}
    for node, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        found[node.target.id] = (ast.unparse(node.value) if node.value else "", text)
    return found


def default(options: type, name: str, source: str) -> str:
    """How a default is written for people."""
    value: Any = getattr(options(), name)
    if source == "NOT_GIVEN":
        return "see there"
    if name.endswith(("bytes", "limit", "message", "water", "body")) and isinstance(value, int):
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size} {unit}"
    if value is None or isinstance(value, bool):
        return "off" if not value else "on"
    return f"`{value!r}`" if not isinstance(value, int | float) else f"{value:g}"


def table(options: type) -> str:
    """The table of one class of options."""
    lines = ["| option | default | |", "| --- | --- | --- |"]
    for name, (source, text) in documented(options).items():
        lines.append(f"| `{name}` | {default(options, name, source)} | {text.replace('``', '`')} |")
    return "\n".join(lines) + "\n"


def filled(manual: str) -> str:
    """A manual with its tables as the code says."""
    return _PLACE.sub(
        lambda place: f"<!-- options: {place[1]} -->\n{table(OPTIONS[place[1]])}<!-- end -->", manual
    )


def tables_in(manual: str) -> list[str]:
    """The names of the tables in a manual."""
    return [place[0] for place in _PLACE.findall(manual)]


if __name__ == "__main__":
    for path in MANUALS:
        path.write_text(filled(path.read_text()))
