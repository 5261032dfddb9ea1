"""Names of actors: unique while they live, gone with their actor, readable like any mapping."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from actors import Actor, ConnectionActor
from actors.cell.cell import Cell
from actors.testing import started
from supervisor import ChildSpec, Registry
from tests.raw import raw_client
from tests.witness import serving, until


class Named:
    """Stands for a cell and its ref: the registry keeps the one and gives the other."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.ref = self


class RegistryAgainstADict(RuleBasedStateMachine):
    """The registry is a dict in which a name is never overwritten and only its owner removes it."""

    cells = Bundle("cells")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.names: dict[str, object] = {}

    @rule(target=cells, id=st.sampled_from("ab"))
    def make(self, id: str) -> Named:
        return Named(id)

    @rule(name=st.sampled_from(["clock", "room", "db"]), cell=cells)
    def register(self, name: str, cell: Cell) -> None:
        if name in self.names:
            with pytest.raises(ValueError, match=f"^name: '{name}' belongs to "):
                self.registry.register(name, cell)
        else:
            self.registry.register(name, cell)
            self.names[name] = cell

    @rule(name=st.sampled_from(["clock", "room", "db"]), cell=cells)
    def forget(self, name: str, cell: Cell) -> None:
        self.registry.forget(name, cell)
        if self.names.get(name) is cell:
            del self.names[name]

    @invariant()
    def it_reads_like_the_dict(self) -> None:
        assert dict(self.registry) == self.names
        assert len(self.registry) == len(self.names)
        for name in ("clock", "room", "db"):
            assert (name in self.registry) == (name in self.names)
            assert self.registry.get(name) is self.names.get(name)


TestRegistryAgainstADict = RegistryAgainstADict.TestCase


def test_a_name_of_nobody_is_a_key_error_that_says_so() -> None:
    with pytest.raises(KeyError, match="no live actor is called 'clock'"):
        Registry()["clock"]


async def test_names_may_come_and_go_while_somebody_iterates() -> None:
    registry = Registry()
    async with started(Actor) as ref:
        for name in ("one", "two"):
            registry.register(name, ref._cell)

        seen = []
        for name in registry:
            seen.append(name)
            registry.forget("two", ref._cell)
            if name == "one":
                registry.register("three", ref._cell)

    assert seen == ["one", "two"]
    assert list(registry) == ["one", "three"]


def test_users_can_read_it_and_nothing_else() -> None:
    assert isinstance(Registry(), Mapping)
    assert not hasattr(Registry, "__setitem__")
    assert not hasattr(Registry, "__delitem__")


async def test_a_server_knows_its_services_by_name_and_its_connections_by_id() -> None:
    async with serving(ConnectionActor, children=[ChildSpec(Actor, name="clock")]) as (server, _):
        assert list(server.registry) == ["clock"]
        async with raw_client(server) as client:
            await until(lambda: len(server.registry) == 2)
            (ref,) = server.connections
            assert server.registry[ref.id] == ref

            await client.send_close()
            await client.rest()
            await until(lambda: ref.id not in server.registry)

        assert list(server.registry) == ["clock"]
