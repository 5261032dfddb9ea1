"""A WebSocket client on a bare socket: it sends whatever bytes it is told to, and keeps what comes.

It shares no code with the server or its libraries, so what it reads is what was on the wire.
Nothing happens by itself: no pong, no answer to a Close.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

DEADLINE = 20.0
"""Seconds after which something that was waited for is not going to come."""


@dataclass(frozen=True)
class Frame:
    """One frame of the server."""

    opcode: int
    payload: bytes = b""
    fin: bool = True

    @property
    def text(self) -> str:
        """The payload as text."""
        return self.payload.decode()

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of a Close frame; 1005 for an empty one."""
        assert self.opcode == CLOSE, f"not a Close frame: {self}"
        if not self.payload:
            return 1005, ""
        return struct.unpack("!H", self.payload[:2])[0], self.payload[2:].decode()


def encode(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    key: bytes | None = None,
) -> bytes:
    """The bytes of one frame as a client sends it (RFC 6455, section 5.2); by default with a random mask."""
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    mask_bit = masked << 7
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", mask_bit | 126, size)
    else:
        head += struct.pack("!BQ", mask_bit | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4) if key is None else key
    repeated = (key * (size // 4 + 1))[:size]
    whole = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + key + whole.to_bytes(size, "big")


def encode_close(code: int | None = 1000, reason: str = "") -> bytes:
    """The bytes of a client's Close frame; ``None`` makes an empty one."""
    return encode(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def decode(data: bytes | bytearray, start: int = 0, *, agreed: int = 0) -> tuple[Frame, int] | None:
    """Read the frame at ``start``; give it and where the next one begins, or ``None`` if it is cut off.

    ``agreed``: the reserved bits of the first byte that an extension may set.
    """
    if len(data) < start + 2:
        return None
    first, second = data[start], data[start + 1]
    assert not first & 0x70 & ~agreed, "a reserved bit that was not agreed on"
    assert not second & 0x80, "a server masks nothing"
    size, at = second, start + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(data) < at + width:
            return None
        size, at = int.from_bytes(data[at : at + width], "big"), at + width
    if len(data) < at + size:
        return None
    return Frame(first & 0x0F, bytes(data[at : at + size]), bool(first & 0x80)), at + size


class RawClient:
    """One connection; made by ``raw_client`` or ``RawClient.dial``."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wire = bytearray()
        """Every byte that came."""
        self.over: str | None = None
        """How the server's side ended, once that was read: ``"eof"`` or ``"reset"``."""
        self._read = 0

    @classmethod
    async def dial(
        cls, address: Any, *, receive_buffer: int | None = None, source: str | None = None
    ) -> RawClient:
        """Connect to a server, a port of the loopback, a (host, port), or the path of a Unix socket.

        ``source`` is the address to come from; all of 127.0.0.0/8 is the loopback.
        """
        if not isinstance(address, (int, str, tuple)):  # a Server
            address = address.port
        if isinstance(address, int):
            address = ("127.0.0.1", address)
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                sock.bind((source, 0))
            sock.setblocking(False)
            try:
                sock.connect(address)
            except BlockingIOError:
                await anyio.wait_writable(sock)
                if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, os.strerror(error)) from None
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    # -- sending -------------------------------------------------------------------------------

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self.sock)

    async def send(self, message: str | bytes) -> None:
        """Send a message in one frame."""
        if isinstance(message, str):
            await self.send_bytes(encode(TEXT, message.encode()))
        else:
            await self.send_bytes(encode(BINARY, message))

    async def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a Close frame."""
        await self.send_bytes(encode_close(code, reason))

    async def request(
        self, target: str = "/", headers: Mapping[str, str] | None = None, *, behind: bytes = b""
    ) -> int:
        """Ask for the upgrade, read the head of the answer, check it, give its status.

        ``headers`` are added; one with the value ``""`` takes away what is sent otherwise.
        ``behind`` are bytes sent with the request, without waiting for the answer.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
            **(headers or {}),
        }
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        await self.send_bytes("\r\n".join([*lines, "", ""]).encode() + behind)
        status, answer = await self.read_head()
        if status == 101:
            accept = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
            assert answer["sec-websocket-accept"] == base64.b64encode(accept).decode()
        self.headers = answer
        return status

    # -- receiving -----------------------------------------------------------------------------

    async def receive(self) -> bool:
        """Read some bytes into ``wire``; ``False`` when there are none to come, see ``over``."""
        while self.over is None:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                await anyio.wait_readable(self.sock)
            except ConnectionResetError:
                self.over = "reset"
            else:
                self.wire += data
                if data:
                    return True
                self.over = "eof"
        return False

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an HTTP answer: its status, and its fields by their names in small letters."""
        with anyio.fail_after(DEADLINE):
            while (end := self.wire.find(b"\r\n\r\n", self._read)) < 0:
                assert await self.receive(), f"{self.over} inside of the head {bytes(self.wire)!r}"
        status_line, *lines = self.wire[self._read : end].decode().split("\r\n")
        self._read = end + 4
        return int(status_line.split()[1]), {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }

    async def frame(self) -> Frame:
        """Read the next frame."""
        with anyio.fail_after(DEADLINE):
            while (found := decode(self.wire, self._read)) is None:
                assert await self.receive(), f"{self.over} instead of a frame"
        frame, self._read = found
        return frame

    async def rest(self) -> list[Frame]:
        """Read to the end of the stream; give the frames that were not read yet, all of them whole."""
        with anyio.fail_after(DEADLINE):
            while await self.receive():
                pass
        frames = []
        while (found := decode(self.wire, self._read)) is not None:
            frame, self._read = found
            frames.append(frame)
        assert self._read == len(self.wire), (
            f"a part of a frame at the end: {bytes(self.wire[self._read :])!r}"
        )
        return frames

    async def rest_of_bytes(self) -> bytes:
        """Read to the end of the stream; give the bytes that were not read yet."""
        with anyio.fail_after(DEADLINE):
            while await self.receive():
                pass
        rest, self._read = bytes(self.wire[self._read :]), len(self.wire)
        return rest

    async def answer_close(self) -> tuple[int, str]:
        """Read the server's Close frame, the next one, and send it back; give its code and reason."""
        close = await self.frame()
        code, reason = close.close
        await self.send_bytes(encode(CLOSE, close.payload))
        return code, reason

    # -- the end -------------------------------------------------------------------------------

    def finish(self) -> None:
        """End our side of TCP (FIN); what the server sends can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Drop TCP with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


@asynccontextmanager
async def raw_client(
    address: Any,
    target: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[RawClient]:
    """An open WebSocket for the length of the block; its socket is closed afterwards."""
    client = await RawClient.dial(address, receive_buffer=receive_buffer)
    try:
        with anyio.fail_after(DEADLINE):
            status = await client.request(target, headers)
        assert status == 101, f"the upgrade was answered with {status}"
        yield client
    finally:
        client.close()
