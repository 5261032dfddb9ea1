"""An echo server: python examples/echo.py [--backend asyncio|trio] [--port PORT]"""

import argparse

import anyio

from actors import ConnectionActor
from supervisor import serve


class Echo(ConnectionActor):
    async def on_message(self, message):
        await self.send(message)


async def main(host: str, port: int) -> None:
    async with serve({"/": Echo}, host=host, port=port) as server:
        print(f"ws://{host}:{server.port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Echo every WebSocket message.")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    anyio.run(main, options.host, options.port, backend=options.backend)
