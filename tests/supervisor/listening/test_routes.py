"""Routes: which actor class answers which path, and what cannot be registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import Actor, ConnectionActor
from actors.codecs import JsonCodec
from supervisor import Policy, Route, Timeouts
from supervisor.listening.routes import Router


class One(ConnectionActor):
    pass


class Two(ConnectionActor):
    pass


def coded(codec: Any, subprotocols: Any = ()) -> type[ConnectionActor]:
    return type("Coded", (ConnectionActor,), {"codec": codec, "subprotocols": subprotocols})


def found(routes: Mapping[str, type[ConnectionActor]], path: str) -> tuple[str, dict[str, str]] | None:
    """The name of the actor at ``path``, and the parameters."""
    match = Router(routes).find(path)
    return None if match is None else (match[0].actor.__name__, match[1])


@pytest.mark.parametrize("routes", [One, [("/", One)], "/"])
def test_routes_that_are_no_mapping_are_told_by_name(routes: Any) -> None:
    with pytest.raises(TypeError, match=r"^routes: a mapping from paths to actor classes"):
        Router(routes)


# -- finding -----------------------------------------------------------------------------------

ROUTES = {
    "/": One,
    "/chat": One,
    "/rooms/:room": One,
    "/rooms/lobby": Two,
    "/rooms/:room/:seat": One,
    "/rooms/:room/door": Two,
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ("One", {})),
        ("", ("One", {})),
        ("/chat", ("One", {})),
        ("/chat/", ("One", {})),
        ("/rooms/blue", ("One", {"room": "blue"})),
        ("/rooms/blue/", ("One", {"room": "blue"})),
        ("/rooms/lobby", ("Two", {})),
        ("/rooms/lobbyist", ("One", {"room": "lobbyist"})),
        ("/rooms/blue/7", ("One", {"room": "blue", "seat": "7"})),
        ("/rooms/blue/door", ("Two", {"room": "blue"})),
        ("/rooms/a%20b%2Fc", ("One", {"room": "a b/c"})),
        ("/rooms/%C3%A9", ("One", {"room": "é"})),
        ("/rooms", None),
        ("/rooms/", None),
        ("/rooms/blue/7/more", None),
        ("/Chat", None),
        ("/chat/more", None),
        ("/elsewhere", None),
    ],
)
def test_a_path_has_one_route_and_a_fixed_segment_wins(
    path: str, expected: tuple[str, dict[str, str]] | None
) -> None:
    assert found(ROUTES, path) == expected


def test_the_order_of_registration_makes_no_difference() -> None:
    backwards = dict(reversed(ROUTES.items()))

    for path in ("/rooms/lobby", "/rooms/blue/door", "/rooms/lobby/7", "/rooms/blue"):
        assert found(backwards, path) == found(ROUTES, path)


SEGMENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: not text.startswith(":")
)


@given(st.lists(SEGMENT, min_size=1, max_size=4), st.data())
def test_parameters_are_what_stands_in_their_place_unquoted(segments: list[str], data: st.DataObject) -> None:
    quoted = [quote(segment, safe="") for segment in segments]
    named = data.draw(st.lists(st.booleans(), min_size=len(segments), max_size=len(segments)))
    pattern = [f":p{index}" if name else quoted[index] for index, name in enumerate(named)]

    match = found({"/" + "/".join(pattern): One}, "/" + "/".join(quoted))

    assert match == ("One", {f"p{index}": segments[index] for index, name in enumerate(named) if name})


@given(st.text("/ab:%.", max_size=12))
def test_any_path_at_all_is_found_or_not_and_never_an_error(path: str) -> None:
    match = found(ROUTES, path)

    if match is not None:
        assert all(value == unquote(value) for value in match[1].values())


# -- what cannot be registered -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/chat", "/chat"),
        ("/chat", "/chat/"),
        ("/", "/"),
        ("/rooms/:room", "/rooms/:name"),
        ("/:a/x/:b", "/:c/x/:d"),
    ],
)
def test_a_path_registered_twice_is_an_error_and_the_first_stays(first: str, second: str) -> None:
    router = Router({first: One})

    with pytest.raises(ValueError, match=f"^route: '{second}' is registered twice"):
        router.add(second, Two)

    assert len(router) == 1
    match = router.find(first.replace(":", ""))
    assert match is not None
    assert match[0].actor is One


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("chat", "^route: a path begins with '/', 'chat' does not"),
        ("", "^route: a path begins with '/'"),
        (7, "^route: a path begins with '/'"),
        (None, "^route: a path begins with '/'"),
        ("/rooms/:", "^route: the parameters of '/rooms/:' need names"),
        ("/:room/:room", "^route: the parameters of '/:room/:room' need names, each another one"),
    ],
)
def test_a_malformed_path_is_an_error_and_nothing_is_registered(path: Any, match: str) -> None:
    router = Router()

    with pytest.raises(ValueError, match=match):
        router.add(path, One)

    assert len(router) == 0


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Route(Actor), TypeError, "^route: a subclass of actors.ConnectionActor, not "),
        (lambda: Route(One()), TypeError, "^route: a subclass of actors.ConnectionActor, not "),
        (lambda: Route("One"), TypeError, "^route: a subclass of actors.ConnectionActor, not 'One'"),
        (lambda: Route(One, {"idle": 3}), TypeError, "^policy: that of the route is {'idle': 3}, not a "),
        (lambda: Route(One, Timeouts()), TypeError, "^policy: that of the route is Timeouts"),
        (
            lambda: Route(type("Strict", (One,), {"policy": 3})),
            TypeError,
            "^policy: that of Strict is 3, not a supervisor.Policy",
        ),
        (lambda: Route(coded("yaml")), ValueError, "^Coded.codec='yaml' is not known"),
        (lambda: Route(coded(None)), TypeError, "^Coded.codec must be a name or an object with name"),
        (lambda: Route(coded(JsonCodec)), TypeError, "^Coded.codec must be an instance, not a class"),
        (lambda: Route(coded({"chat": "yaml"})), ValueError, "^Coded.codec='yaml' is not known"),
        (
            lambda: Route(coded({"chat": "json"}, ["chat", "other"])),
            LookupError,
            "^Coded.codec has no entry for subprotocol 'other'",
        ),
        (lambda: Route(coded("raw", "chat")), TypeError, "^subprotocols: a sequence of names, not the str "),
    ],
)
def test_a_class_that_cannot_be_served_is_an_error_that_names_the_option(
    make: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        make()


# -- what a route knows ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "subprotocols"),
    [
        (coded("json"), ()),
        (coded("json", ["b", "a"]), ("b", "a")),
        (coded({"chat.bin": "msgpack", "chat.json": "json", None: "raw"}), ("chat.bin", "chat.json")),
        (coded({"a": "json", "b": "raw"}, ["b"]), ("b",)),
    ],
)
def test_the_subprotocols_are_the_class_s_or_those_of_its_codecs(
    actor: type[ConnectionActor], subprotocols: tuple[str, ...]
) -> None:
    assert Route(actor).subprotocols == subprotocols


def test_the_policy_of_the_class_wins_over_the_route_and_the_route_over_the_server() -> None:
    idle = {place: Policy(timeouts=Timeouts(idle=number)) for number, place in enumerate("crs", 1)}
    strict = type("Strict", (One,), {"policy": idle["c"]})

    assert Route(strict, idle["r"]).policy_within(idle["s"]).timeouts.idle == 1
    assert Route(One, idle["r"]).policy_within(idle["s"]).timeouts.idle == 2
    assert Route(One).policy_within(idle["s"]).timeouts.idle == 3
    assert Route(One).policy_within(None).timeouts.idle is None


@pytest.mark.parametrize("name", ["", "chat json", "chat\r\nX-A: b", "chät", b"chat", 5])
def test_a_subprotocol_that_no_header_can_name_is_an_error(name: Any) -> None:
    class Odd(ConnectionActor):
        subprotocols = (name,)

    with pytest.raises(ValueError, match=r"subprotocols: .* of Odd is no token"):
        Route(Odd)
