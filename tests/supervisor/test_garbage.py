"""What a connection leaves behind is freed at once: none of it waits for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import anyio
import pytest

from actors import Actor, CloseReport, ConnectionActor, Refusal, Request
from actors.timers import Timer
from supervisor import ChildSpec, Heartbeat, Policy, Server, Timeouts, serve
from tests.raw import CONTINUATION, PING, TEXT, RawClient, encode, encode_close
from tests.witness import serving, until

pytestmark = pytest.mark.every_runtime

CONNECTIONS = 10


class Echo(ConnectionActor):
    policy = Policy(timeouts=Timeouts(idle=60), heartbeat=Heartbeat())

    async def on_message(self, message: str) -> None:
        await self.send(message)
        if message == "close me":
            self.close(4001, "as you like")


class Owner(Echo):
    """Owns one of everything."""

    async def on_connect(self) -> None:
        self.join("lobby")
        self.every(30, "beat")
        self.spawn(anyio.sleep_forever)
        await self.enter(anyio.CancelScope())

    async def on_close(self, report: CloseReport) -> None:
        pass


class Refusing(ConnectionActor):
    @classmethod
    async def on_upgrade(cls, request: Request) -> Refusal:
        return Refusal(401, "no")


async def server_closes(client: RawClient) -> None:
    await client.send("close me")
    await client.frame()
    await client.answer_close()
    await client.rest()


async def client_closes(client: RawClient) -> None:
    await client.send("hello")
    await client.frame()
    await client.send_bytes(encode_close(1000, "bye"))
    await client.rest()


async def client_needs_the_protocol(client: RawClient) -> None:
    await client.send_bytes(encode(TEXT, b"hel", fin=False) + encode(PING) + encode(CONTINUATION, b"lo"))
    await client.frame()
    await client.frame()
    await client_closes(client)


async def client_resets(client: RawClient) -> None:
    await client.send("hello")
    await client.frame()
    client.reset()


async def client_ends(client: RawClient) -> None:
    client.finish()
    await client.rest()


async def nothing(client: RawClient) -> None:
    pass


def own_objects() -> Counter[str]:
    """How many objects there are of our classes and of the protocol's; a cancelled timer has its time."""
    kinds = (type(one) for one in gc.get_objects() if type(one) is not Timer)
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(name for name in names if name.startswith(("actors.", "supervisor.", "websockets.")))


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def one(server: Server, target: str, status: int, end: Callable[[RawClient], Awaitable[None]]) -> None:
    client = await RawClient.dial(server)
    assert await client.request(target) == status
    await end(client)
    client.close()
    await until(lambda: not server.site.upgrades and not server.connections)


@pytest.mark.parametrize(
    ("target", "status", "end"),
    [
        ("/", 101, server_closes),
        ("/", 101, client_closes),
        ("/", 101, client_needs_the_protocol),
        ("/", 101, client_resets),
        ("/", 101, client_ends),
        ("/", 101, nothing),
        ("/owner", 101, server_closes),
        ("/owner", 101, client_closes),
        ("/refusing", 401, nothing),
        ("/nowhere", 404, nothing),
    ],
)
async def test_a_connection_is_freed_with_its_end_however_that_comes(
    target: str, status: int, end: Callable[[RawClient], Awaitable[None]]
) -> None:
    routes = {"/": Echo, "/owner": Owner, "/refusing": Refusing}
    async with serve(routes, hooks=[]) as server:
        await one(server, target, status, end)
        with without_collector():
            before = own_objects()

            for _number in range(CONNECTIONS):
                await one(server, target, status, end)

            await until(lambda: own_objects() - before == Counter())


class Thing:
    """What a message is decoded to; somebody can see whether it is still there."""

    alive: ClassVar[weakref.WeakSet[Thing]] = weakref.WeakSet()

    def __init__(self) -> None:
        Thing.alive.add(self)


class Things:
    name = "things"

    def encode(self, message: object) -> str:
        return str(message)

    def decode(self, data: str | bytes) -> object:
        return Thing()


class Counting(ConnectionActor):
    codec = Things()

    async def on_message(self, message: Thing) -> None:
        await self.send(len(Thing.alive))

    async def on_info(self, message: Thing) -> None:
        await self.send(len(Thing.alive))


class Service(Actor):
    async def on_info(self, message: Thing) -> int:
        return len(Thing.alive)


async def test_an_actor_that_waits_holds_no_message() -> None:
    async with serving({"/": Counting}, children=[ChildSpec(Service, name="service")]) as (server, _):
        client = await RawClient.dial(server)
        await client.request("/")
        await client.send("one")
        assert (await client.frame()).text == "1"
        await until(lambda: not Thing.alive)

        (ref,) = server.connections
        ref.tell(Thing())
        assert (await client.frame()).text == "1"
        await until(lambda: not Thing.alive)

        assert await server.registry["service"].ask(Thing()) == 1
        await until(lambda: not Thing.alive)
        client.close()


async def test_who_keeps_a_ref_or_the_actor_can_still_use_it() -> None:
    actors: list[ConnectionActor] = []

    class Kept(Echo):
        def on_connect(self) -> None:
            actors.append(self)

    async with serving({"/": Kept}) as (server, _):
        client = await RawClient.dial(server)
        await client.request("/")
        await until(lambda: len(actors) == 1)
        (ref,) = server.connections
        await server_closes(client)
        client.close()

        report = await ref.wait_closed()

        (actor,) = actors
        assert report is not None
        assert (report.code, report.clean) == (4001, True)
        assert (actor.ref, actor.id, repr(ref)) == (ref, ref.id, f"<ActorRef {Kept.__qualname__} {ref.id}>")
        assert await actor.close() == await ref.close() == report
        assert not ref.alive
        assert actor.cancel_timer("none") is False
        ref.tell("a dead letter")
        assert server.site.runtime.dead_letters.last[-1].message == "a dead letter"
