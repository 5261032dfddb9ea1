"""A chat room that may crash: python examples/rooms.py [--backend asyncio|trio] [--port PORT]

The room keeps a ref to the history, so REST_FOR_ONE restarts it when that crashes.  The connections
outlive both: they monitor the room, and join its next life after its Down.
"""

import argparse

import anyio

from actors import Actor, ConnectionActor, Down
from supervisor import ChildSpec, Strategy, serve


class History(Actor):
    count = 0

    def on_info(self, line):
        if line == "crash":
            raise RuntimeError("as you wish")
        self.count += 1
        return self.count


class Room(Actor):
    def on_start(self):
        self.history, self.members = self.find("history"), set()

    async def on_info(self, message):
        match message:
            case "join", member:
                self.ref.monitor(member)
                self.members.add(member)
                member.tell("* you are in the room")
            case "say", line:
                assert self.history, "started first, and REST_FOR_ONE keeps it so"
                number = await self.history.ask(line)
                for member in self.members:
                    member.tell(f"{number}. {line}")
            case Down(ref=member):
                self.members.discard(member)
            case "crash":
                raise RuntimeError("as you wish")


class Member(ConnectionActor):
    async def on_connect(self):
        while not (room := self.find("room")):  # noqa: ASYNC110  # between two of its lives
            await anyio.sleep(0.05)
        self.ref.monitor(room)
        room.tell(("join", self.ref))

    def on_message(self, text):
        crash = text in ("crash room", "crash history")  # say it and see
        if service := self.find(text.split()[1] if crash else "room"):
            service.tell("crash" if crash else ("say", text))

    async def on_info(self, message):
        gone = isinstance(message, Down)
        await self.send("* the room is gone" if gone else message)
        if gone:
            await self.on_connect()


async def main(port: int) -> None:
    services = [ChildSpec(History, name="history"), ChildSpec(Room, name="room")]
    server = serve({"/": Member}, port=port, children=services, strategy=Strategy.REST_FOR_ONE)
    async with server:
        print(f"ws://127.0.0.1:{server.port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat room that may crash.")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    anyio.run(main, options.port, backend=options.backend)
