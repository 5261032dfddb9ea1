"""Prices by topic, beside the other tasks of a trio program: python examples/trio_app.py [--port PORT]"""

import argparse
import random

import trio

from actors import ConnectionActor, Refusal
from supervisor import serve

prices = {"gold": 2400.0, "silver": 30.0, "tin": 25.0}


class Subscriber(ConnectionActor):
    codec = "json"

    @classmethod
    def on_upgrade(cls, request):
        if request.path_params["metal"] not in prices:
            return Refusal(404, "nobody trades this here")
        return None

    async def on_connect(self):
        metal = self.path_params["metal"]
        self.join(metal)
        await self.send({metal: prices[metal]})

    def on_message(self, message):
        self.close(1003, "prices go one way only")


async def trade(server, pause):
    while True:
        metal = random.choice(list(prices))
        prices[metal] = round(prices[metal] * random.uniform(0.99, 1.01), 2)
        server.publish(metal, {metal: prices[metal]})
        await trio.sleep(pause)


async def main(port, pause):
    async with trio.open_nursery() as nursery:  # yours, with what else your program does in it
        async with serve({"/prices/:metal": Subscriber}, port=port) as server:
            nursery.start_soon(trade, server, pause)
            print(f"ws://127.0.0.1:{server.port}/prices/gold", flush=True)

            await server.serve_forever()  # until Ctrl-C or SIGTERM
            print(await server.drain(within=10, spread=1, reason="the market is closed"), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish prices to WebSockets.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two trades")
    options = parser.parse_args()
    trio.run(main, options.port, options.pause)
