"""WebSockets over TLS: real clients, and a client that does with its TLS session what it wants."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import websockets.asyncio.client
import websockets.trio.client
from websockets.exceptions import ConnectionClosed

from actors import ConnectionActor, Initiator
from supervisor import Admission, Policy, Server, Timeouts, serve
from supervisor.admission.options import Kind
from supervisor.events import ConnectionOpened
from tests.raw import DEADLINE, RawClient
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime


class Echo(ConnectionActor):
    async def on_message(self, message: str | bytes) -> None:
        await self.send(message)
        if message == "close me":
            self.close(4001, "as you like")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for localhost that it has signed."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj"
    names = ["/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture(scope="module")
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="module")
def client_tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.with_suffix(".crt")))


class TlsClient(RawClient):
    """A raw client inside of a TLS session; ``ended_by`` says what ended the server's side of it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.ended_by: str | None = None

    async def begin(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        with anyio.fail_after(DEADLINE):
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._write_out()
                    assert await self._read_in(), "the server ended the TLS handshake"
            await self._write_out()

    async def _write_out(self) -> None:
        await super().send_bytes(self._outgoing.read())

    async def _read_in(self) -> bool:
        raw = len(self.wire)
        came = await super().receive()
        self._incoming.write(bytes(self.wire[raw:]))
        del self.wire[raw:]
        return came

    async def send_bytes(self, data: bytes) -> None:
        self._tls.write(data)
        await self._write_out()

    async def receive(self) -> bool:
        while self.ended_by is None:
            try:
                data = self._tls.read(1 << 16)
            except ssl.SSLWantReadError:
                if not await self._read_in():
                    self.ended_by = self.over
            else:
                self.wire += data
                if data:
                    return True
                self.ended_by = "close_notify"
        return False

    async def close_notify(self) -> None:
        """End our side of the TLS session, and not of TCP."""
        with pytest.raises(ssl.SSLWantReadError):  # the server's is not there yet
            self._tls.unwrap()
        await self._write_out()


@asynccontextmanager
async def tls_client(server: Server, context: ssl.SSLContext) -> AsyncIterator[TlsClient]:
    client = await TlsClient.dial(server)
    assert isinstance(client, TlsClient)
    try:
        await client.begin(context)
        assert await client.request() == 101
        yield client
    finally:
        client.close()


async def test_the_websockets_client_echoes_and_sees_the_close(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, anyio_backend_name: str
) -> None:
    client_of = websockets.trio.client if anyio_backend_name == "trio" else websockets.asyncio.client

    async with serving(Echo, ssl=server_tls) as (server, witness):
        async with client_of.connect(f"wss://localhost:{server.port}", ssl=client_tls) as client:
            for message in ("hello", b"\x00\xff", "x" * 500_000, "close me"):
                await client.send(message)
                assert await client.recv() == message
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
        report = (await witness.one_closed()).report

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you like")
    assert (report.sent, report.received, report.clean) == ((4001, "as you like"),) * 2 + (True,)


async def test_our_close_over_tls_is_whole_and_the_session_is_ended_by_us(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        serving(Echo, ssl=server_tls) as (server, witness),
        tls_client(server, client_tls) as client,
    ):
        await client.send("close me")
        assert (await client.frame()).text == "close me"
        close = await client.answer_close()
        rest = await client.rest()
        client.finish()
        report = (await witness.one_closed()).report

    assert (close, rest) == ((4001, "as you like"), [])
    assert client.ended_by == "close_notify"
    assert (report.initiator, report.clean) == (Initiator.LOCAL, True)


async def test_the_peers_close_over_tls_is_answered_and_the_session_is_ended_by_us(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        serving(Echo, ssl=server_tls) as (server, witness),
        tls_client(server, client_tls) as client,
    ):
        await client.send_close(4002, "bye")
        frames = await client.rest()
        client.finish()
        report = (await witness.one_closed()).report

    assert [frame.close for frame in frames] == [(4002, "bye")]
    assert client.ended_by == "close_notify"
    assert (report.code, report.initiator, report.clean) == (4002, Initiator.PEER, True)


@pytest.mark.parametrize("end", ["close_notify", "fin", "rst"])
async def test_a_peer_that_ends_without_a_close_frame_is_lost(
    end: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        serving(Echo, ssl=server_tls) as (server, witness),
        tls_client(server, client_tls) as neighbour,
        tls_client(server, client_tls) as client,
    ):
        if end == "close_notify":
            await client.close_notify()
        elif end == "fin":
            client.finish()
        else:
            client.reset()
        report = (await witness.one_closed()).report
        await neighbour.send("still here")
        assert (await neighbour.frame()).text == "still here"

    assert (report.code, report.initiator, report.clean) == (1006, Initiator.TRANSPORT, False)


async def test_a_silent_peer_over_tls_is_dropped_after_the_close_timeout(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    policy = Policy(timeouts=Timeouts(close=0.2))

    async with (
        serving(Echo, ssl=server_tls, policy=policy) as (server, witness),
        tls_client(server, client_tls) as client,
    ):
        await client.send("close me")
        await client.frame()
        close = await client.frame()
        report = (await witness.one_closed()).report

    assert close.close == (4001, "as you like")
    assert (report.received, report.clean) == (None, False)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 1000])
async def test_a_tls_handshake_that_does_not_come_is_cut_and_harms_nobody(
    sent: bytes, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    policy = Policy(timeouts=Timeouts(handshake=0.3))

    async with serving(Echo, ssl=server_tls, policy=policy) as (server, witness):
        stranger = await RawClient.dial(server)
        await stranger.send_bytes(sent)
        answer = await stranger.rest_of_bytes()
        stranger.close()
        await until(lambda: not server.site.upgrades)

    assert b"HTTP" not in answer
    assert witness.of(ConnectionOpened) == []


async def test_a_server_that_ends_closes_its_tls_connections_with_1001(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    closes: list[tuple[int, str]] = []

    async def connect(server: Server) -> None:
        async with tls_client(server, client_tls) as client:
            connected.set()
            closes.append(await client.answer_close())
            await client.rest()

    connected = anyio.Event()
    async with anyio.create_task_group() as task_group:
        server = serve({"/": Echo}, ssl=server_tls)
        async with server:
            task_group.start_soon(connect, server)
            await connected.wait()

    assert closes == [(1001, "server shutting down")]


async def test_a_peer_that_makes_no_tls_handshake_is_one_of_those_that_open_and_goes_for_the_next_one(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(Echo, ssl=server_tls, admission=Admission(max_opening=1)) as (server, _):
        silent = await RawClient.dial(server)
        await until(lambda: server.site.gate.count(Kind.OPENING) == 1)
        async with tls_client(server, client_tls) as client:
            await client.send("hello")
            assert (await client.frame()).text == "hello"
        assert await silent.rest_of_bytes() == b""
        silent.close()
        assert server.refused == {"max_opening": 1}


async def test_a_server_that_ends_does_not_wait_for_tls_handshakes(server_tls: ssl.SSLContext) -> None:
    async with serve({"/": Echo}, ssl=server_tls) as server:
        silent = await RawClient.dial(server)
        await until(lambda: len(server.site.upgrades) == 1)
    rest = await silent.rest_of_bytes()
    silent.close()

    assert rest == b""
