"""``picows``, on uvloop."""

from __future__ import annotations

import uvloop
from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

from tests.benchmarks.servers import DONE, RESTART, options

room: set[WSTransport] = set()


class Listener(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.on_message(transport, frame)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


class EchoAndClose(Listener):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())
        transport.send_close(DONE[0], DONE[1].encode())


class Room(Listener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        room.add(transport)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        message = frame.get_payload_as_bytes()
        for member in room:
            member.send(WSMsgType.TEXT, message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        room.discard(transport)


class Drain(Listener):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        for member in list(room):
            member.send_close(RESTART[0], RESTART[1].encode())


PATHS = {"/close": EchoAndClose, "/room": Room, "/drain": Drain}


def listener(request: WSUpgradeRequest) -> WSListener:
    return PATHS.get(request.path.decode(), Listener)()


async def main() -> None:
    given = options()
    server = await ws_create_server(
        listener,
        "127.0.0.1",
        given.port,
        backlog=2048,
        enable_auto_ping=given.heartbeat is not None,
        auto_ping_idle_timeout=given.heartbeat or 20,
        auto_ping_reply_timeout=given.heartbeat or 20,
        auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
