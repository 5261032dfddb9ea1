"""Supervised routes below the prefix of a SubRouter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from actors import ActorMisuse, ConnectionActor
from tests.programs import Program
from tests.raw import DEADLINE
from tests.robyn_apps import ask, http_connection, running

with patch.object(sys, "argv", sys.argv[:1]):  # Robyn reads the arguments of the process
    from robyn import Robyn, SubRouter
    from robyn.argument_parser import Config

    from supervisor.robyn import supervise

APP = """
from robyn import Robyn, SubRouter
from actors import ConnectionActor
from supervisor.robyn import supervise

app = Robyn(__file__)
sockets = supervise(app)
api, users, root = SubRouter(prefix="/api"), SubRouter(prefix="users/"), SubRouter(prefix="/")
app.inject(name="the app")
users.inject(name="the router of the users")

@users.get("/page")
def page():
    return "a page"

@sockets.route("/:name/echo", router=users)
class Echo(ConnectionActor):
    async def on_message(self, message):
        await self.send(f"{self.path_params['name']}: {message}")

for path, router in (("/ws", users), ("/ws", root), ("/app", None)):
    websocket = sockets.websocket(path, router=router)
    @websocket.on("connect")
    def connect(ws, router_dependencies):
        return f"{ws.request.path} {router_dependencies.get('name')}"

api.include_router(users)
app.include_router(api)
app.include_router(root)
sockets.start(port=0)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(tmp_path_factory.mktemp("app"), APP) as started:
        started.port()
        yield started
        assert "Traceback" not in started.output


def test_a_route_of_a_router_in_a_router_is_below_both_prefixes_as_its_http_routes_are(app: Program) -> None:
    with http_connection(app.port()) as connection:
        assert ask(connection, "GET", "/api/users/page") == (200, b"a page")
    with connect(f"ws://127.0.0.1:{app.port()}/api/users/ada/echo") as client:
        client.send("hello")
        assert client.recv(DEADLINE) == "ada: hello"


@pytest.mark.parametrize(
    ("path", "greeting"),
    [
        ("/api/users/ws", "/api/users/ws the router of the users"),
        ("/ws", "/ws None"),
        ("/app", "/app the app"),
    ],
)
def test_functions_get_the_dependencies_of_their_router(app: Program, path: str, greeting: str) -> None:
    with connect(f"ws://127.0.0.1:{app.port()}{path}") as client:
        assert client.recv(DEADLINE) == greeting


def test_without_its_prefix_there_is_nothing(app: Program) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{app.port()}/users/ada/echo"):
        pass

    assert refused.value.response.status_code == 404


@pytest.fixture
def robyn() -> Robyn:
    with patch.object(sys, "argv", sys.argv[:1]):
        return Robyn(__file__, config=Config())


def test_a_router_that_is_not_in_the_app_is_refused_at_the_start(robyn: Robyn) -> None:
    sockets = supervise(robyn)
    sockets.route("/echo", router=SubRouter(prefix="/forgotten"))(ConnectionActor)

    with pytest.raises(ActorMisuse, match=r"'/forgotten' .* '/echo' is not in the app; call app.include_"):
        sockets.start(port=0)


def test_a_malformed_path_is_refused_at_once(robyn: Robyn) -> None:
    with pytest.raises(ValueError, match="route: a path begins with '/'"):
        supervise(robyn).route("echo", router=SubRouter(prefix="/api"))(ConnectionActor)


def test_a_path_that_is_taken_below_its_prefix_is_refused_at_the_start(robyn: Robyn) -> None:
    api = SubRouter(prefix="/api")
    robyn.include_router(api)
    sockets = supervise(robyn)
    sockets.route("/api/echo")(ConnectionActor)
    sockets.route("/echo", router=api)(ConnectionActor)

    with pytest.raises(ValueError, match="'/api/echo' is registered twice"):
        sockets.start(port=0)
