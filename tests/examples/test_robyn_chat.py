"""The chat example, the main job of this project: seen by websockets, aiohttp and a browser."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.browser import Browser, browser, needs_browser
from tests.programs import ROOT, Program, program
from tests.raw import DEADLINE

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module")
def chat() -> Iterator[Program]:
    with program(ROOT / "examples" / "robyn_chat.py", "--port", "0") as started:
        started.port()
        yield started
        started.signal(signal.SIGTERM)
        assert started.status() == 0
        assert "Traceback" not in started.output


def post(port: int, path: str, body: dict[str, str]) -> dict[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        answer: dict[str, str] = json.load(response)
        return answer


def close_of(client: ClientConnection) -> tuple[int, str]:
    """Wait for the end, and give code and reason of the server's Close frame."""
    with pytest.raises(ConnectionClosed):
        client.recv(DEADLINE)
    assert client.protocol.close_rcvd is not None, "no Close frame came"
    return client.protocol.close_rcvd.code, client.protocol.close_rcvd.reason


# -- websockets --------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong"])
def test_websockets_sees_that_a_token_is_not_valid(chat: Program, query: str) -> None:
    with connect(f"ws://127.0.0.1:{chat.port()}/ws{query}") as client:
        assert close_of(client) == (1008, "Invalid authentication")


def test_websockets_chats_and_sees_that_its_session_expired(chat: Program) -> None:
    port = chat.port()
    ada, bob = (post(port, "/login", {"name": name})["token"] for name in ("Ada", "Bob"))

    with connect(f"ws://127.0.0.1:{port}/ws?token={ada}") as first:
        assert first.recv(DEADLINE) == "Ada is here"
        with connect(f"ws://127.0.0.1:{port}/ws?token={bob}") as second:
            assert (first.recv(DEADLINE), second.recv(DEADLINE)) == ("Bob is here", "Bob is here")
            second.send("hello")
            assert (first.recv(DEADLINE), second.recv(DEADLINE)) == ("Bob: hello", "Bob: hello")

            assert post(port, "/logout", {"token": bob}) == {"ended": True}
            second.send("is anybody there?")

            assert close_of(second) == (1008, "Session expired")
        first.send("he has left")
        assert first.recv(DEADLINE) == "Ada: he has left"


def test_a_session_expires_by_itself() -> None:
    with program(ROOT / "examples" / "robyn_chat.py", "--port", "0", "--session", "0.5") as chat:
        port = chat.port()
        token = post(port, "/login", {"name": "Ada"})["token"]
        with connect(f"ws://127.0.0.1:{port}/ws?token={token}") as client:
            with suppress(ConnectionClosed):
                while True:
                    client.recv(DEADLINE)
                    client.send("and now?")

            assert client.protocol.close_rcvd is not None
            assert client.protocol.close_rcvd.reason in ("Session expired", "Invalid authentication")


# -- aiohttp -----------------------------------------------------------------------------------


@asyncio_only
async def test_aiohttp_sees_both_closes_and_the_page_in_one_session(chat: Program) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{chat.port()}") as session:
        async with session.get("/") as response:
            assert response.status == 200
            assert response.content_type == "text/html"
            assert "<title>Chat</title>" in await response.text()

        async with session.ws_connect("/ws", params={"token": "wrong"}) as client:
            message = await client.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
            assert message.extra == "Invalid authentication"
            assert client.close_code == 1008

        async with session.post("/login", json={"name": "Ada"}) as response:
            token = (await response.json())["token"]
        async with session.ws_connect("/ws", params={"token": token}) as client:
            assert await client.receive_str() == "Ada is here"
            async with session.post("/logout", json={"token": token}) as response:
                assert await response.json() == {"ended": True}
            await client.send_str("hello")
            message = await client.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
            assert message.extra == "Session expired"
            assert client.close_code == 1008


# -- a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as window:
        yield window


REFUSED = """
    const socket = new WebSocket(`ws://${location.host}/ws?token=wrong`)
    const event = await new Promise(resolve => { socket.onclose = resolve })
    return [event.code, event.reason, event.wasClean]
"""

EXPIRED = """
    const { token } = await post("/login", { name: "Ada" })
    const socket = new WebSocket(`ws://${location.host}/ws?token=${token}`)
    const closed = new Promise(resolve => { socket.onclose = resolve })
    await new Promise(resolve => { socket.onmessage = resolve })
    await post("/logout", { token })
    socket.send("hello")
    const event = await closed
    return [event.code, event.reason, event.wasClean]
"""


@needs_browser
@pytest.mark.browser
def test_a_browser_sees_both_closes_with_code_and_reason_and_as_clean(chat: Program, window: Browser) -> None:
    window.open(f"http://127.0.0.1:{chat.port()}/")

    assert window.run_async(REFUSED) == [1008, "Invalid authentication", True]
    assert window.run_async(EXPIRED) == [1008, "Session expired", True]


@needs_browser
@pytest.mark.browser
def test_the_page_chats_and_shows_how_its_connection_was_closed(chat: Program, window: Browser) -> None:
    window.open(f"http://127.0.0.1:{chat.port()}/")
    line = "[...document.querySelectorAll('#log li')].map(item => item.textContent)"
    closed = "['code', 'reason', 'wasClean'].map(id => document.getElementById(id)?.textContent)"

    window.run("document.getElementById('intrude').click()")
    window.until(f"{closed}[2]")
    assert window.run(f"return {closed}") == ["1008", "Invalid authentication", "true"]

    window.run("document.getElementById('login').requestSubmit()")
    window.until(f"{line}.includes('Ada is here')")
    assert window.run(f"return {closed}") == [None, None, None]

    say = "$('text').value = arguments[0]; $('talk').requestSubmit()"
    window.run(say, "hello")
    window.until(f"{line}.includes('Ada: hello')")

    window.run_async("await post('/logout', { token })")
    window.run(say, "is anybody there?")
    window.until(f"{closed}[2]")
    assert window.run(f"return {closed}") == ["1008", "Session expired", "true"]
