"""The app under test: as many of Robyn's features as a real app uses, alone or with supervised WebSockets.

A program: ``python app.py`` serves on a free port of the loopback and says which.  ``FUZZ_HOW`` is
``alone`` (Robyn and nothing of ours), ``here`` (the pipe in the process) or ``pump``.
"""

# No annotations as strings here: Robyn reads them as they are.
import asyncio
import enum
import logging
import os
import socket
import time
from pathlib import Path
from typing import TypedDict

from robyn import (
    ALLOW_CORS,
    AuthenticationHandler,
    Headers,
    Request,
    Response,
    Robyn,
    SSEMessage,
    SSEResponse,
    StreamingResponse,
    SubRouter,
    serve_file,
)
from robyn.authentication import BearerGetter
from robyn.robyn import Identity, QueryParams
from robyn.types import Body, Files, FormData, JsonBody, PathParams

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("FUZZ_FOLDER", HERE))

app = Robyn(__file__)


# -- around every request ------------------------------------------------------------------------

app.configure_sessions(secret_key="not a secret")
app.set_response_header("X-App", "fuzzed")
app.inject_global(colour="blue")
app.inject(size=3)


@app.exception
def failed(error: Exception) -> Response:
    return Response(status_code=500, headers={}, description=f"failed: {type(error).__name__}")


@app.before_request()
def count(request: Request):
    request.headers.set("X-Counted", "1")
    return request


@app.after_request()
async def mark(request: Request, response: Response):
    response.headers.set("X-Method", request.method)
    return response


@app.before_request("/guarded/:name")
async def guard(request: Request):
    if request.query_params.get("no", None) is not None:
        return {"refused": request.path_params}
    return request


@app.after_request("/guarded/:name")
def guarded_after(response: Response):
    response.headers.append("X-Guarded", "yes")
    return response


class Bearer(AuthenticationHandler):
    def authenticate(self, request: Request):
        token = self.token_getter.get_token(request)
        return Identity(claims={"token": token}) if token else None


app.configure_authentication(Bearer(token_getter=BearerGetter()))


# -- plain answers -------------------------------------------------------------------------------


@app.get("/")
def index():
    return "hello"


@app.get("/const", const=True)
def const():
    return "constant"


@app.get("/async")
async def index_async():
    await asyncio.sleep(0)
    return {"hello": "from the event loop"}


@app.head("/async")
async def head_async():
    return ""


@app.get("/bytes")
def some_bytes():
    return bytes(range(256))


@app.get("/large")
def large():
    return "x" * 3_000_000


@app.get("/status/:status")
def status(status: int):
    return Response(
        status_code=status if status in range(200, 600) else 400, headers={}, description="status"
    )


@app.get("/guarded/:name")
def guarded(request: Request):
    return request.path_params


@app.get("/private", auth_required=True)
def private(request: Request):
    return request.identity.claims["token"]


@app.get("/raises")
def raises():
    raise LookupError("as told")


@app.get("/cookies")
def cookies(request: Request):
    response = Response(status_code=200, headers={}, description=request.headers.get("cookie") or "none")
    response.set_cookie("seen", "1", http_only=True)
    response.set_cookie("other", "2", path="/")
    return response


@app.get("/session")
def session(request: Request):
    request.session["views"] = request.session.get("views", 0) + 1
    return str(request.session["views"])


@app.get("/slow")
async def slow():
    await asyncio.sleep(0.05)
    return "slow"


@app.get("/file")
def a_file():
    return serve_file(str(FOLDER / "page.html"))


# -- what a request says -------------------------------------------------------------------------


def told(request: Request) -> dict[str, object]:
    body = request.body
    return {
        "method": request.method,
        "url": [request.url.scheme, request.url.host, request.url.path],
        "query": sorted(map(list, request.query_params.multi_items())),
        "headers": sorted(
            list(pair)
            for pair in request.headers.multi_items()
            if pair[0].lower() not in ("connection", "host")
        ),
        "body": body if isinstance(body, str) else list(body),
        "form": dict(sorted(request.form_data.items())),
        "files": {name: list(data[:100]) for name, data in sorted(request.files.items())},
        "path": request.path_params,
    }


def echo(request: Request):
    return told(request)


async def echo_async(request: Request):
    return told(request)


for method in ("get", "post", "put", "delete", "patch", "options", "trace"):
    getattr(app, method)("/echo")(echo)
    getattr(app, method)("/async/echo/:any")(echo_async)


@app.post("/size")
def size(request: Request):
    return str(len(request.body))


@app.post("/json")
def as_json(request: Request):
    return {"got": request.json()}


@app.post("/json/keys")
async def as_json_async(request: Request):
    return sorted(request.json())


class Person(JsonBody):
    name: str
    age: int


class Point(TypedDict):
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@app.post("/person")
def person(data: Person):
    return {"got": data}


@app.post("/point")
async def point(data: Point, request: Request):
    return {"got": data, "method": request.method}


@app.post("/body")
def body_of(body: Body):
    return body


@app.put("/form")
def form(form_data: FormData, files: Files):
    return {"form": form_data, "files": {name: len(data) for name, data in files.items()}}


@app.get("/items/:number")
def item(number: int, q: str | None = None, flag: bool = False, ratio: float = 1.0):
    return {"number": number, "q": q, "flag": flag, "ratio": ratio}


@app.get("/list")
async def as_list(tags: list[str], sizes: list[int]):
    return {"tags": tags, "sizes": sizes}


@app.get("/colour/:colour")
def colour_of(colour: Colour):
    return colour.value


@app.get("/tail/*rest")
def tail(path_params: PathParams, query_params: QueryParams):
    return {"path": path_params, "query": sorted(query_params.multi_items())}


@app.get("/two/:first/and/:second")
async def two(first: str, second: str, headers: Headers):
    return {"first": first, "second": second, "agent": headers.get("user-agent")}


@app.get("/given")
def given(request: Request, global_dependencies, router_dependencies):
    return {"global": sorted(global_dependencies), "router": sorted(router_dependencies)}


@app.post("/answer")
async def answer(request: Request):
    """Answer what the client says, as a careless app does: a redirect, a cookie, a name for a file."""
    wanted = request.json()
    response = Response(
        status_code=200,
        headers={str(name): str(value) for name, value in dict(wanted.get("headers") or {}).items()},
        description=str(wanted.get("body")),
    )
    for name, value in dict(wanted.get("cookies") or {}).items():
        response.set_cookie(str(name), str(value), path=str(wanted.get("path", "/")))
    return response


@app.get("/moved")
def moved(request: Request):
    return Response(
        status_code=302, headers={"Location": request.query_params.get("to", "/")}, description=""
    )


@app.get("/header-back")
def header_back(request: Request):
    return "back", {"X-Value": request.headers.get("x-value") or ""}, 200


# -- streams -------------------------------------------------------------------------------------


@app.get("/stream")
async def stream():
    async def pieces():
        for number in range(5):
            yield f"piece {number};"
            await asyncio.sleep(0.001)

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/stream/plain")
def stream_plain():
    def pieces():
        for _ in range(5):
            yield b"x" * 10_000

    return StreamingResponse(pieces(), media_type="application/octet-stream")


@app.get("/events")
async def events():
    async def pieces():
        for number in range(3):
            yield SSEMessage(f"event {number}\nof three", event="count", id=str(number))

    return SSEResponse(pieces())


@app.get("/events/slow")
def events_slow():
    def pieces():
        for number in range(20):
            yield SSEMessage(f"event {number}")
            time.sleep(0.01)

    return SSEResponse(pieces())


# -- below a prefix, and files -------------------------------------------------------------------

below = SubRouter(prefix="/below")


@below.get("/:name")
def below_name(name: str):
    return f"below {name}"


@below.post("/")
def below_post(request: Request):
    return request.body


@below.get("/private/:name", auth_required=True)
async def below_private(request: Request):
    return request.path_params["name"]


app.include_router(below)
app.serve_directory("/static", str(FOLDER), index_file="page.html")
app.serve_directory("/listed", str(FOLDER), show_files_listing=True)
app.serve_directory("/bare", str(FOLDER))


@app.mcp.tool("add", "adds", {"type": "object", "properties": {"a": {"type": "number"}}})
def add(args):
    return str(args)


@app.mcp.resource("thing://{name}", "Thing", "a thing")
def thing(name: str) -> str:
    return name


if os.environ.get("FUZZ_CORS"):
    ALLOW_CORS(app, ["http://localhost:3000"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_alone() -> None:
    port = free_port()

    @app.startup_handler
    async def startup():
        print(f"Robyn alone at http://127.0.0.1:{port}", flush=True)

    app.start(host="127.0.0.1", port=port)


def start_supervised(with_pump: bool) -> None:
    from actors import ConnectionActor
    from supervisor.proxy.pump import Pump
    from supervisor.robyn import supervise

    logging.getLogger("supervisor").setLevel(logging.INFO)
    if not with_pump:
        Pump.start = lambda pump: pump.began.set()  # as if there could be none
    sockets = supervise(app)

    @sockets.route("/ws")
    class Echo(ConnectionActor):
        async def on_message(self, message):
            await self.send(message)

    sockets.start(port=0)


if __name__ == "__main__":
    if os.environ["FUZZ_HOW"] == "alone":
        start_alone()
    else:
        start_supervised(with_pump=os.environ["FUZZ_HOW"] == "pump")
