"""``serve()`` seen by clients that nobody here wrote: each gets code and reason of both closes, clean."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio.to_thread
import pytest
import trio
import websockets.asyncio.client
import websockets.sync.client
import websockets.trio.client
from websockets.exceptions import ConnectionClosed

from actors import ConnectionActor, ExitReason
from supervisor import Admission
from tests.browser import Browser, browser, needs_browser
from tests.raw import DEADLINE
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime


class Session(ConnectionActor):
    """Wants a token, and echoes until the session is over."""

    async def on_connect(self) -> None:
        if self.query_params.get("token") != "secret":
            self.close(1008, "Invalid authentication")

    async def on_message(self, message: str | bytes) -> None:
        if message == "is my session over?":
            self.close(1008, "Session expired")
        else:
            await self.send(message)


@dataclass(frozen=True)
class Seen:
    """What a client saw: the echoes of what it sent, and how the connection ended."""

    echoes: tuple[str | bytes, ...]
    code: int
    reason: str
    clean: bool = True


MESSAGES = ("hello", "ünï¢ödé", b"\x00\xff", "x" * 100_000)
REFUSED = Seen((), 1008, "Invalid authentication")
EXPIRED = Seen(MESSAGES, 1008, "Session expired")


def how_it_ended(echoes: list[Any], error: ConnectionClosed) -> Seen:
    """Read it from an exception of the ``websockets`` package."""
    assert error.rcvd is not None, "no Close frame came"
    return Seen(tuple(echoes), error.rcvd.code, error.rcvd.reason, error.sent == error.rcvd)


async def by_websockets(connect: Callable[[str], Any], url: str) -> Seen:
    echoes: list[str | bytes] = []
    async with connect(url) as client:
        try:
            if "token" in url:
                for message in MESSAGES:
                    await client.send(message)
                    echoes.append(await client.recv())
                await client.send("is my session over?")
            await client.recv()
        except ConnectionClosed as error:
            return how_it_ended(echoes, error)
    raise AssertionError("it was not closed")


def by_websockets_on_a_thread(url: str) -> Seen:
    echoes: list[str | bytes] = []
    with websockets.sync.client.connect(url) as client:
        try:
            if "token" in url:
                for message in MESSAGES:
                    client.send(message)
                    echoes.append(client.recv(DEADLINE))
                client.send("is my session over?")
            client.recv(DEADLINE)
        except ConnectionClosed as error:
            return how_it_ended(echoes, error)
    raise AssertionError("it was not closed")


async def by_aiohttp(url: str) -> Seen:
    echoes: list[str | bytes] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as client:
        if "token" in url:
            for message in MESSAGES:
                await (client.send_str if isinstance(message, str) else client.send_bytes)(message)  # type: ignore[arg-type]  # the one that fits
                echoes.append((await client.receive()).data)
            await client.send_str("is my session over?")
        last = await client.receive()
        assert last.type is aiohttp.WSMsgType.CLOSE
        return Seen(tuple(echoes), last.data, last.extra, client.close_code == last.data)


def on_asyncio(client: Callable[[str], Awaitable[Seen]]) -> Callable[[str], Seen]:
    return lambda url: asyncio.run(asyncio.wait_for(client(url), DEADLINE))  # type: ignore[arg-type]  # a coroutine


def on_trio(client: Callable[[str], Awaitable[Seen]]) -> Callable[[str], Seen]:
    async def run(url: str) -> Seen:
        with trio.fail_after(DEADLINE):
            return await client(url)

    return lambda url: trio.run(run, url)


CLIENTS = {
    "websockets": on_asyncio(partial(by_websockets, websockets.asyncio.client.connect)),
    "websockets on trio": on_trio(partial(by_websockets, websockets.trio.client.connect)),
    "websockets on a thread": by_websockets_on_a_thread,
    "aiohttp": on_asyncio(by_aiohttp),
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_sees_both_closes_with_code_and_reason_and_as_clean(client: str) -> None:
    see = CLIENTS[client]

    async with serving({"/session": Session}) as (server, witness):
        url = f"ws://127.0.0.1:{server.port}/session"
        seen = [
            await anyio.to_thread.run_sync(see, url),
            await anyio.to_thread.run_sync(see, url + "?token=secret"),
        ]
        await until(lambda: len(witness.closed) == 2)

    assert seen == [REFUSED, EXPIRED]
    for closed in witness.closed:
        assert closed.report.clean
        assert closed.report.exit_reason is ExitReason.POLICY_VIOLATION
    assert witness.crashes == []


async def test_a_client_on_a_unix_socket_sees_both_closes(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    see = on_asyncio(partial(by_websockets, partial(websockets.asyncio.client.unix_connect, path)))

    async with serving({"/session": Session}, unix=path) as (_, witness):
        seen = [
            await anyio.to_thread.run_sync(see, "ws://localhost/session"),
            await anyio.to_thread.run_sync(see, "ws://localhost/session?token=secret"),
        ]
        await until(lambda: len(witness.closed) == 2)

    assert seen == [REFUSED, EXPIRED]
    assert all(closed.report.clean for closed in witness.closed)


# -- a browser ---------------------------------------------------------------------------------

SEE = """
    const [url, messages] = args
    const socket = new WebSocket(url)
    const closed = new Promise(resolve => { socket.onclose = resolve })
    const echoes = []
    if (messages) {
        await new Promise(resolve => { socket.onopen = resolve })
        for (const message of messages) {
            socket.send(message)
            echoes.push(await new Promise(resolve => { socket.onmessage = event => resolve(event.data) }))
        }
        socket.send("is my session over?")
    }
    const event = await closed
    return [echoes, event.code, event.reason, event.wasClean]
"""


class Page(http.server.BaseHTTPRequestHandler):
    """Any path is an empty page."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>Page</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page() -> Iterator[str]:
    """Serve a page in a thread of its own; gives its origin."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        thread = threading.Thread(target=pages.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{pages.server_port}"
        finally:
            pages.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as window:
        yield window


@pytest.fixture(scope="module")
def origin(window: Browser) -> Iterator[str]:
    """The origin of the page that the window shows."""
    with page() as origin:
        window.open(f"{origin}/")
        yield origin


@needs_browser
@pytest.mark.browser
async def test_a_browser_sees_both_closes_with_code_and_reason_and_as_clean(
    window: Browser, origin: str
) -> None:
    messages = [message for message in MESSAGES if isinstance(message, str)]

    async with serving({"/session": Session}, admission=Admission(origins=[origin])) as (server, witness):
        url = f"ws://127.0.0.1:{server.port}/session"
        refused = await anyio.to_thread.run_sync(window.run_async, SEE, url, None)
        expired = await anyio.to_thread.run_sync(window.run_async, SEE, url + "?token=secret", messages)
        await until(lambda: len(witness.closed) == 2)

    assert refused == [[], 1008, "Invalid authentication", True]
    assert expired == [messages, 1008, "Session expired", True]
    assert all(closed.report.clean for closed in witness.closed)


@needs_browser
@pytest.mark.browser
async def test_a_page_of_another_origin_gets_no_connection(window: Browser, origin: str) -> None:
    async with serving({"/session": Session}) as (server, witness):
        url = f"ws://127.0.0.1:{server.port}/session?token=secret"
        refused = await anyio.to_thread.run_sync(window.run_async, SEE, url, None)

    assert refused == [[], 1006, "", False]
    assert witness.closed == []
    assert dict(server.refused) == {"origin": 1}
