"""``hypercorn`` on trio, a plain ASGI application."""

from __future__ import annotations

import trio
from hypercorn import Config
from hypercorn.trio import serve

from tests.benchmarks.servers import options
from tests.benchmarks.servers.asgi_app import app


async def main() -> None:
    given = options()
    config = Config()
    config.bind = [f"127.0.0.1:{given.port}"]
    config.backlog = 2048
    config.loglevel = "ERROR"
    config.websocket_ping_interval = given.heartbeat
    await serve(app, config)  # type: ignore[arg-type]  # its types want TypedDicts


if __name__ == "__main__":
    trio.run(main)
