"""What type checkers have to accept: hooks plain and async, with and without a type of message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors import Actor, ActorRef, CloseReport, ConnectionActor, Refusal, Request
from supervisor import ChildSpec, Supervisor, serve


class Plain(ConnectionActor):
    @classmethod
    def on_upgrade(cls, request: Request) -> Refusal | None:
        return None if "token" in request.query_params else Refusal(401, "token required")

    def on_connect(self) -> None:
        self.join("lobby")

    def on_message(self, message: str | bytes) -> None:
        self.publish("lobby", message)

    def on_info(self, message: object) -> int:
        return 1

    def on_restart(self, error: BaseException) -> None:
        raise error

    def on_close(self, report: CloseReport) -> None:
        print(report.code, report.clean)


class Async(ConnectionActor):
    @classmethod
    async def on_upgrade(cls, request: Request) -> Refusal | None:
        return None

    async def on_connect(self) -> None:
        await self.send("welcome")

    async def on_message(self, message: str) -> None:
        await self.send(message)

    async def on_info(self, message: object) -> None:
        await self.send(str(message))

    async def on_close(self, report: CloseReport) -> None:
        print(report.code, report.clean)


class Derived(Async):
    async def on_connect(self) -> None:
        await super().on_connect()


class Form(ConnectionActor[Mapping[str, str]]):
    codec = "json"

    async def on_message(self, form: Mapping[str, str]) -> None:  # under a name of its own
        await self.send(form["name"].upper())


@dataclass(frozen=True)
class Add:
    number: int


class Sum(Actor[Add, int]):
    def on_start(self) -> None:
        self.total = 0

    async def on_info(self, message: Add) -> int:
        self.total += message.number
        return self.total


class PlainSum(Actor[Add, int]):
    def on_info(self, message: Add) -> int:
        return message.number

    def on_stop(self) -> None:
        pass


async def asks(ref: ActorRef[Add, int], any_ref: ActorRef) -> int:
    ref.tell(Add(1))
    any_ref.tell("whatever")
    return await ref.ask(Add(2)) + 1


async def serves() -> None:
    routes = {"/plain": Plain, "/async": Async, "/form": Form}
    async with serve(routes, children=[ChildSpec(Sum, name="sum"), PlainSum]) as server:
        print(await server.registry["sum"].ask(Add(1)))
    async with Supervisor([Sum]) as tree:
        print(tree.describe())
