"""The shape of the code: who imports whom, which names are public, how modules are called."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("actors/**/*.py"), *ROOT.glob("supervisor/**/*.py")])
PURE = [
    "actors.closing",
    "actors.codes",
    "supervisor.admission.breaker",
    "supervisor.connections.verdicts",
    "supervisor.policies",
    "supervisor.restarts",
    "supervisor.tree.strategies",
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


# From the bottom to the top: a wing imports itself and those before it (design.md, section 3).  What lies in
# ``actors/`` and ``supervisor/`` themselves serves several wings and is held by the rule against cycles.
FLOORS = {
    "actors": ["actors.transports", "actors.protocol", "actors.cell"],
    "supervisor": [
        "supervisor.admission",
        "supervisor.connections",
        "supervisor.tree",
        "supervisor.listening",
        "supervisor.proxy",
        "supervisor.robyn",
    ],
}

# Private attributes of another object: who, which, and why.
PRIVATE = {
    ("actors.cell.cell", "_cell"): "an actor's cell is nobody's but the actor's and the cell's",
    ("actors.cell.cell", "_former_cell"): "as above",
    ("actors.cell.monitors", "_cell"): "what a ref reaches",
    ("supervisor.events", "_cell"): "as above",
    ("supervisor.tree.node", "_cell"): "as above",
}

# Attributes of objects of another file that are set: who, which, and why.
SET = {
    ("actors.cell.cell", "_cell"): "an actor gets its cell when it is made",
    ("actors.cell.cell", "_former_cell"): "and loses it to the next instance",
    ("actors.cell.cell", "since"): "a call for every hook would cost too much, see hook",
    ("actors.cell.cell", "interrupted"): "a crash ends the hook's loop",
    ("actors.cell.cell", "task"): "the task that runs the hooks",
    ("actors.cell.cell", "open"): "the mailbox's gate",
    ("actors.cell.connection_cell", "open"): "as above",
    ("actors.cell.connection_cell", "sent_at"): "as above",
    ("actors.cell.connection_cell", "waits_for_peer"): "as above",
    ("actors.cell.connection_cell", "last_message"): "a call for every message would cost too much",
    ("actors.cell.connection_cell", "paused"): "the rate's pause is the cell's",
    ("actors.cell.monitors", "monitors"): "of the cell on whose thread it runs",
    ("actors.protocol.fastlane", "size"): "of the fragments that it adds to",
    ("actors.protocol.websocket", "size"): "as above",
    ("actors.testing", "websocket"): "as in an upgrade",
    ("actors.testing", "sink"): "as in an upgrade",
    ("actors.protocol.opening", "sink"): "a transport's reader says who is the next one",
    ("supervisor.listening.upgrade", "sink"): "as above",
    ("supervisor.listening.upgrade", "websocket"): "a cell and its WebSocket know each other",
    ("supervisor.listening.server", "listening"): "the site's, by its server",
    ("supervisor.proxy.forwarder", "closing"): "the pipes' last answers",
    ("supervisor.proxy.pump_process", "closing"): "as above",
    ("supervisor.tree.lifespan", "runtime"): "a host gets its runtime in its own task",
    ("supervisor.tree.node", "life"): "a child's life is its node's",
    ("supervisor.tree.node", "lives"): "as above",
    ("supervisor.tree.node", "born_at"): "as above",
    ("supervisor.tree.node", "waits_with"): "as above",
    ("supervisor.tree.node", "watch"): "as above",
    ("supervisor.tree.node", "child"): "an answer is its node's",
    ("supervisor.tree.node", "event"): "as above",
    ("supervisor.tree.node", "undo"): "as above",
}
OF_OTHERS = {
    "__cause__": "Python's",
    "__module__": "Python's",
    "__traceback__": "Python's",
    "_current_frames": "of sys",
    "_exit": "of os",
    "_getframe": "of sys",
    "available_extensions": "of websockets",
    "available_subprotocols": "of websockets",
    "body": "of websockets",
    "col_offset": "of ast",
    "current_size": "of websockets",
    "end_col_offset": "of ast",
    "end_lineno": "of ast",
    "event_handlers": "of Robyn",
    "lineno": "of ast",
    "max_message_size": "of websockets",
    "parser": "of websockets",
    "parser_exc": "of websockets",
    "processes": "of Robyn",
}
"""Attributes of other people's objects that are read or set."""

Sources = Mapping[str, ast.Module]
"""Modules by their dotted names."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")


MODULES: Sources = {name_of(path): ast.parse(path.read_text()) for path in SOURCES}


def imported(tree: ast.Module) -> Iterator[str]:
    """What a file imports, anywhere in it: under ``TYPE_CHECKING`` and within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(sources: Sources) -> dict[str, set[str]]:
    """Which of ``sources`` each of them imports."""
    found: dict[str, set[str]] = {}
    for name, tree in sources.items():
        wanted = set()
        for one in imported(tree):
            module = one if one in sources else one.rpartition(".")[0]
            if module in sources and module != name:
                wanted.add(module)
        found[name] = wanted
    return found


def cycles(sources: Sources) -> list[tuple[str, ...]]:
    """Modules that import each other, over any number of others."""
    imports = graph(sources)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(imports[start])
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += imports[one]
        return seen

    reach = {name: reached(name) for name in sources}
    circles = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in sources
        if name in reach[name]
    }
    return sorted(circles)


def upwards(sources: Sources) -> list[str]:
    """Imports of a wing that is above, or beside where two must not know each other."""
    found = []
    for name, wanted in graph(sources).items():
        package = name.partition(".")[0]
        floors = FLOORS[package]
        wing = next((floor for floor in floors if name == floor or name.startswith(f"{floor}.")), None)
        for one in sorted(wanted):
            other = next((floor for floor in floors if one == floor or one.startswith(f"{floor}.")), None)
            above = wing is not None and other is not None and floors.index(other) > floors.index(wing)
            apart = {wing, other} == {"supervisor.connections", "supervisor.tree"}
            if above or apart or (package == "actors" and one.startswith("supervisor")):
                found.append(f"{name} imports {one}")
    return found


def without(sources: Sources, modules: Iterable[str], forbidden: Iterable[str]) -> list[str]:
    """Imports of ``forbidden`` packages in ``modules``."""
    banned = set(forbidden)
    return [
        f"{name} imports {one}"
        for name in modules
        for one in imported(sources[name])
        if one.partition(".")[0] in banned
    ]


@cache
def _own(tree: ast.Module) -> frozenset[str]:
    """The attributes of the classes of a file: their slots, and what they set on themselves."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return frozenset(found)


def _of_another(node: ast.Attribute) -> bool:
    value = node.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super":
        return False
    return not (isinstance(value, ast.Name) and value.id in ("self", "cls"))


def private(sources: Sources) -> list[str]:
    """Private attributes that a file takes of objects which are not its own classes'."""
    return [
        f"{name}: {ast.unparse(node)}"
        for name, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and _of_another(node)
        and node.attr not in _own(tree) | OF_OTHERS.keys()
        and (name, node.attr) not in PRIVATE
    ]


def set_from_outside(sources: Sources) -> list[str]:
    """Attributes that a file sets on objects which are not its own classes'."""
    return [
        f"{name}: {ast.unparse(node)}"
        for name, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and _of_another(node)
        and node.attr not in _own(tree) | OF_OTHERS.keys()
        and (name, node.attr) not in SET
    ]


def planted(**files: str) -> Sources:
    """Modules of a house that is built to break a rule."""
    return {name.replace("__", "."): ast.parse(text) for name, text in files.items()}


# -- the rules, and that each can be broken ----------------------------------------------------


def test_no_file_imports_itself_over_others() -> None:
    assert cycles(MODULES) == []


@pytest.mark.parametrize(
    "second",
    [
        "import actors.one",
        "from actors import one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from actors.one import One",
        "def late():\n    from actors.one import One",
    ],
)
def test_a_cycle_is_found(second: str) -> None:
    house = planted(actors__one="from actors.two import Two", actors__two="import actors.three")

    assert cycles(house | planted(actors__three=second)) == [("actors.one", "actors.three", "actors.two")]


def test_no_arrow_points_upwards() -> None:
    assert upwards(MODULES) == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("actors.mailbox", "supervisor.policies"),
        ("actors.transports.trio", "actors.cell.cell"),
        ("actors.protocol.websocket", "actors.cell.cell"),
        ("supervisor.tree.node", "supervisor.connections.watch"),
        ("supervisor.connections.watch", "supervisor.tree.node"),
        ("supervisor.admission.gate", "supervisor.listening.site"),
        ("supervisor.proxy.pipe", "supervisor.robyn.app"),
    ],
)
def test_an_arrow_upwards_is_found(name: str, wanted: str) -> None:
    house = {name: ast.parse(f"from {wanted} import One"), wanted: ast.parse("")}

    assert upwards(house) == [f"{name} imports {wanted}"]


def test_the_protocol_knows_no_event_loop() -> None:
    protocol = [name for name in MODULES if name.startswith("actors.protocol.")]

    assert len(protocol) > 5
    assert without(MODULES, protocol, {"anyio", "asyncio", "trio", "sniffio", "uvloop"}) == []


def test_robyn_is_imported_below_its_wing_only() -> None:
    others = [name for name in MODULES if not name.startswith("supervisor.robyn")]

    assert without(MODULES, others, {"robyn"}) == []


def test_pure_modules_import_no_clock_no_event_loop_and_no_logging() -> None:
    assert without(MODULES, PURE, IMPURE) == []


def test_an_import_that_is_forbidden_is_found() -> None:
    house = planted(actors__pure="def later():\n    import asyncio.tasks")

    assert without(house, ["actors.pure"], IMPURE) == ["actors.pure imports asyncio.tasks"]


def test_the_pump_has_not_loaded_robyn() -> None:
    code = (
        "import sys, supervisor.proxy.pump_process\n"
        "print([name for name in sys.modules if name == 'robyn' or name.startswith(('robyn.', "
        "'supervisor.robyn'))])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"


def test_private_attributes_are_their_own_files() -> None:
    assert private(MODULES) == []


def test_a_private_attribute_of_another_object_is_found() -> None:
    house = planted(supervisor__spy="def look(server):\n    return server._root")

    assert private(house) == ["supervisor.spy: server._root"]


def test_attributes_are_set_by_their_own_files() -> None:
    assert set_from_outside(MODULES) == []


def test_an_attribute_that_is_set_from_outside_is_found() -> None:
    house = planted(supervisor__hand="def put(server):\n    server.ready_path, other = None, 1")

    assert set_from_outside(house) == ["supervisor.hand: server.ready_path"]


def test_no_exception_is_listed_that_is_not_needed() -> None:
    def used(exceptions: Iterable[tuple[str, str]], store: bool) -> set[tuple[str, str]]:
        return {
            (name, node.attr)
            for name, tree in MODULES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and _of_another(node)
            and (isinstance(node.ctx, ast.Store) or not store)
            and node.attr not in _own(tree)
            and (name, node.attr) in exceptions
        }

    assert used(PRIVATE, False) == set(PRIVATE)
    assert used(SET, True) == set(SET)


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


QUESTIONS = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Whom", "Whose", "Why"}


def questions(sources: Sources) -> list[str]:
    """Docstrings that begin with a question word: an engineer says what it is, or what it does."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        f"{name}: {node.name}"
        for name, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds)
        and (text := ast.get_docstring(node))
        and text.split()[0].strip(".,:") in QUESTIONS
    ]


def test_no_docstring_begins_with_a_question_word() -> None:
    assert questions(MODULES) == []


def test_a_docstring_that_does_is_found() -> None:
    house = planted(actors__one='class Hook:\n    """Who wants to know."""')

    assert questions(house) == ["actors.one: Hook"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.name)
def test_an_example_has_fewer_than_eighty_lines_and_uses_public_names_only(path: Path) -> None:
    allowed = {"actors", "supervisor", "actors.testing", "supervisor.robyn", "supervisor.events"}

    assert len(path.read_text().splitlines()) < 80
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("actors", "supervisor"):
            assert node.module in allowed
