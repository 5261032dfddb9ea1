"""Every Python snippet of the manuals runs as written, and what they name is there."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests import options

ROOT = Path(__file__).parent.parent
MANUALS = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("[ast]*/**/README.md")]
    if path.relative_to(ROOT).parts[0] in ("README.md", "actors", "supervisor", "tests")
)


def snippets(language: str) -> list[tuple[Path, str]]:
    """The snippets of a language in every manual, the start page's first."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(path, found) for path in MANUALS for found in pattern.findall(path.read_text())]


PYTHON = [snippet for _, snippet in snippets("python")]
SHELL = [snippet for _, snippet in snippets("sh")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(snippet: str, port: int, directory: Path) -> Iterator[subprocess.Popen[str]]:
    path = directory / "snippet.py"
    path.write_text(snippet)
    process = subprocess.Popen([sys.executable, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the snippet ended"
            assert time.monotonic() < deadline, "the snippet does not listen"
            time.sleep(0.05)
        else:
            return


def close_of(url: str, *messages: str) -> tuple[int, str]:
    with connect(url) as client:
        for message in messages:
            client.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_the_commands_name_files_that_are_there() -> None:
    run, *tests = SHELL

    assert (ROOT / run.split()[-1]).is_file()
    assert len(tests) == 2
    for test in tests:
        assert test.split("/")[-1].strip() == "python -m pytest"


def test_every_snippet_is_one_of_those_that_are_run_below() -> None:
    languages = {
        found
        for path in MANUALS
        for found in re.findall(r"^```(\w*)\n", path.read_text(), re.MULTILINE)
        if found
    }

    assert languages == {"python", "sh", "text"}
    assert len(PYTHON) == 3
    assert [path.relative_to(ROOT).as_posix() for path, _ in snippets("python")] == [
        "README.md",
        "README.md",
        "supervisor/README.md",
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a manual's headings, as code forges make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MANUALS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_manual_links_to_is_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = path if not file else path.parent / file
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


@pytest.mark.parametrize("path", MANUALS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_files_and_modules_that_a_manual_names_are_there(path: Path) -> None:
    text = path.read_text()
    files = re.findall(r"`((?:actors|supervisor|tests|examples)/[\w/.]+\.\w+)`", text)
    tests = re.findall(r"(tests/[\w/]+\.py)", text)
    modules = re.findall(r"python -m (tests[\w.]*)", text)

    for name in (*files, *tests):
        assert (ROOT / name).is_file(), name
    for name in modules:
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), name


def test_the_ways_of_a_close_and_of_a_crash_are_as_they_are_written_down() -> None:
    text = (ROOT / "actors" / "README.md").read_text()
    steps = re.findall(r"`([\w/]+\.py)`:((?:[^`]*`\w+`)+)", text.split("## Testing")[0])
    files: dict[str, set[str]] = {}
    for file, names in steps:
        files.setdefault(file, set()).update(re.findall(r"`(\w+)`", names))

    assert len(files) >= 6
    for file, names in files.items():
        defined = {
            name
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            for name in (
                [node.name]
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                else [node.id]
                if isinstance(node, ast.Name)
                else []
            )
        }
        assert names <= defined, f"{file}: {names - defined}"
    for way in text.split("## The way of")[1:]:
        assert len(set(re.findall(r"`([\w/]+\.py)`:", way))) <= 6


@pytest.mark.parametrize("path", options.MANUALS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_tables_of_options_are_as_the_code_says(path: Path) -> None:
    assert path.read_text() == options.filled(path.read_text()), "python -m tests.options writes them anew"


def test_the_map_shows_every_folder_of_the_sources_and_no_other() -> None:
    start = MANUALS[[path.parent for path in MANUALS].index(ROOT)].read_text()
    shown = set(re.findall(r"^ {0,2}(\w+)/ ", start.partition("## The map")[2], re.MULTILINE))
    folders = {
        path.parent.name for side in ("actors", "supervisor") for path in ROOT.glob(f"{side}/**/__init__.py")
    }

    assert shown == folders | {"tests", "examples"}


def test_every_class_of_options_has_a_table_and_every_option_a_text() -> None:
    assert {name for path in options.MANUALS for name in options.tables_in(path.read_text())} == set(
        options.OPTIONS
    )
    for kind in options.OPTIONS.values():
        documented = options.documented(kind)
        assert list(documented) == [field.name for field in fields(kind)]  # type: ignore[arg-type]
        assert all(text for _, text in documented.values()), documented


def test_a_table_that_is_stale_is_found() -> None:
    manual = "<!-- options: RestartLimit -->\n| `count` | 4 | |\n<!-- end -->\n"

    assert "| `count` | 5 |" in options.filled(manual)


def test_the_robyn_snippet_closes_with_codes_that_the_client_sees(tmp_path: Path) -> None:
    port = free_port()

    with running(PYTHON[0].replace("8080", str(port)), port, tmp_path):
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read().decode()
        unknown = close_of(f"ws://127.0.0.1:{port}/chat")
        expired = close_of(f"ws://127.0.0.1:{port}/ws", "hello")
        with connect(f"ws://127.0.0.1:{port}/chat?token=secret") as chat:
            chat.send("hello")
            echoed = chat.recv(timeout=10)
        with connect(f"ws://127.0.0.1:{port}/ws?session=ada") as functions:
            functions.send("hello")
            answered = functions.recv(timeout=10)

    assert page == "HTTP is Robyn's, on the same port"
    assert unknown == (1008, "Invalid authentication")
    assert expired == (1008, "Session expired")
    assert (echoed, answered) == ("hello", "ada: hello")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_serve_snippet_runs_on(backend: str, tmp_path: Path) -> None:
    port = free_port()
    snippet = PYTHON[1].replace("8765", str(port)).replace("run(main)", f"run(main, backend={backend!r})")

    with running(snippet, port, tmp_path):
        with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{port}/rooms/blue"):
            pass
        with connect(f"ws://127.0.0.1:{port}/rooms/blue?token=x") as client:
            client.send('{"a": 1}')
            answer = json.loads(client.recv(timeout=10))

    assert refused.value.response.status_code == 401
    assert answer == {"room": "blue", "you said": {"a": 1}}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_supervisor_snippet_runs_on(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(PYTHON[2].replace("run(main)", f"run(main, backend={backend!r})"))

    done = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr
    assert "ticks: 0" in done.stdout
    assert "clock (service): running" in done.stdout
