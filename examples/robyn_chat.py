"""A chat in the browser: python examples/robyn_chat.py [--port PORT] [--session SECONDS]"""

import argparse
import secrets
import time
from pathlib import Path

from robyn import Robyn, html

from actors import ActorRef
from supervisor import Overflow, Policy
from supervisor.robyn import supervise

parser = argparse.ArgumentParser(description="A chat in the browser.")
parser.add_argument("--port", type=int, default=8080)
parser.add_argument("--session", type=float, default=600, help="seconds that a login lasts")
options, _ = parser.parse_known_args()  # the others are Robyn's
app = Robyn(__file__)
sockets = supervise(app)
sessions: dict[str, tuple[str, float]] = {}  # by token: name, and when it ends
members: set[ActorRef] = set()


def name_of(token):
    name, ends = sessions.get(token, (None, 0))
    return name if time.monotonic() < ends else None


def tell_all(text):
    for ref in list(members):
        ref.tell(text)  # what is told to a ref is sent to its peer


@app.get("/")
def page(request):
    return html(Path(__file__).with_suffix(".html").read_text())


@app.post("/login")
def login(request):
    token = secrets.token_urlsafe(16)
    sessions[token] = request.json()["name"], time.monotonic() + options.session
    return {"token": token}


@app.post("/logout")
def logout(request):
    return {"ended": sessions.pop(request.json()["token"], None) is not None}


# A member who reads too slowly is closed with 1013 and does not hold up the others.
websocket = sockets.websocket("/ws", policy=Policy(overflow=Overflow.CLOSE))


@websocket.on("connect")
def handle_connect(ws):
    ws.name = name_of(ws.query_params.get("token"))
    if ws.name is None:
        ws.close(code=1008, reason="Invalid authentication")
        return
    ws.session_id = ws.query_params["token"]
    members.add(ws.ref)
    tell_all(f"{ws.name} is here")


@websocket.on("message")
def handle_message(ws, text):
    if name_of(ws.session_id) is None:
        ws.close(code=1008, reason="Session expired")
        return
    tell_all(f"{ws.name}: {text}")


@websocket.on("close")
def handle_close(ws):
    members.discard(ws.ref)


sockets.start(port=options.port)
