"""The shape of the code: who imports whom, which names are public, how modules are called."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("actors/**/*.py"), *ROOT.glob("supervisor/**/*.py")])
PURE = [
    "actors/closing.py",
    "actors/codes.py",
    "supervisor/policies.py",
    "supervisor/restarts.py",
    "supervisor/tree/strategies.py",
]
IMPURE = {"anyio", "asyncio", "logging", "random", "threading", "time", "trio"}

# design.md, section 5
PUBLIC = {
    "actors": [
        "Actor",
        "ConnectionActor",
        "ActorRef",
        "CloseCode",
        "CloseReport",
        "Initiator",
        "ExitReason",
        "Down",
        "Restarted",
        "Refusal",
        "Request",
        "ActorError",
        "ConnectionClosing",
        "MailboxFull",
        "AskTimeout",
        "ActorStopped",
    ],
    "supervisor": [
        "Supervisor",
        "ChildSpec",
        "Strategy",
        "Restart",
        "RestartLimit",
        "Backoff",
        "Policy",
        "Timeouts",
        "Heartbeat",
        "Limits",
        "OnCrash",
        "Overflow",
        "Registry",
        "serve",
        "Server",
        "DrainReport",
    ],
    "actors.testing": ["ManualClock", "connected", "started"],
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_actors_never_imports_supervisor(path: Path) -> None:
    if path.is_relative_to(ROOT / "actors"):
        assert not [name for name in imports_of(path) if name.split(".")[0] == "supervisor"]


@pytest.mark.parametrize("path", PURE)
def test_pure_modules_import_no_clock_no_event_loop_and_no_logging(path: str) -> None:
    direct = {name.split(".")[0] for name in imports_of(ROOT / path)}

    assert not direct & IMPURE


def test_pure_modules_of_actors_import_only_each_other() -> None:
    for path in PURE:
        if path.startswith("actors/"):
            own = [name for name in imports_of(ROOT / path) if name.startswith("actors")]
            assert {f"{name.replace('.', '/')}.py" for name in own} <= set(PURE)


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_there(package: str) -> None:
    module = importlib.import_module(package)

    missing = [name for name in PUBLIC[package] if not hasattr(module, name)]

    assert missing == []


@pytest.mark.parametrize("package", ["actors", "supervisor"])
def test_every_public_name_is_sorted_documented_and_says_where_it_is_imported_from(package: str) -> None:
    module = importlib.import_module(package)

    assert module.__all__ == sorted(module.__all__)
    assert set(PUBLIC[package]) <= set(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert inspect.getdoc(value), f"{package}.{name} has no docstring"
        assert not inspect.getdoc(value).startswith(f"{name}("), (  # what a dataclass makes by itself
            f"{package}.{name} has no docstring of its own"
        )
        assert value.__module__ in ("actors", "supervisor")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_has_a_docstring_and_a_name_that_says_its_role(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    for word in ("manager", "helper", "util", "base", "common", "misc"):
        assert word not in path.stem


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_public_function_and_class_of_a_module_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    missing = [
        node.name
        for node in tree.body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]

    assert missing == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.name)
def test_an_example_has_fewer_than_eighty_lines_and_uses_public_names_only(path: Path) -> None:
    allowed = {"actors", "supervisor", "actors.testing", "supervisor.robyn", "supervisor.events"}

    assert len(path.read_text().splitlines()) < 80
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("actors", "supervisor"):
            assert node.module in allowed
