"""What type checkers have to refuse: each ignored line is an error, or the ignoring is one."""

from __future__ import annotations

from actors import Actor, ActorRef, ConnectionActor


class Number(ConnectionActor[int]):
    def on_message(self, message: str) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


class Returns(ConnectionActor):
    def on_message(self, message: object) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return "nobody takes this"


class Text(Actor[str, str]):
    async def on_info(self, message: str) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return 1


async def asks(ref: ActorRef[str, str]) -> int:
    ref.tell(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return await ref.ask("how many?")  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
