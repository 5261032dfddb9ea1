"""An HTTP route that closes a user's WebSockets with a reason: python examples/admin_kick.py [--port PORT]

curl -X POST '127.0.0.1:8080/users/ada/kick?reason=go+home'
"""

import argparse
from urllib.parse import unquote_plus

from robyn import Robyn

from actors import ConnectionActor
from supervisor.robyn import supervise

parser = argparse.ArgumentParser(description="Kick users by HTTP.")
parser.add_argument("--port", type=int, default=8080)
options, _ = parser.parse_known_args()  # the others are Robyn's

app = Robyn(__file__)
sockets = supervise(app)
users: dict[str, set[str]] = {}  # by name: the ids of the connections


@sockets.route("/users/:name")
class User(ConnectionActor):
    def on_connect(self):
        self.name = self.path_params["name"]
        users.setdefault(self.name, set()).add(self.id)
        self.join("everybody")

    async def on_message(self, message):
        self.publish("everybody", f"{self.name}: {message}")

    def on_close(self, report):
        users[self.name].discard(self.id)


@app.get("/users")
def who():  # a plain handler runs on another thread; all of this is safe there
    return {"open": len(sockets.connections()), "users": {name: len(ids) for name, ids in users.items()}}


@app.post("/users/:name/kick")
def kick(request):
    name, reason = request.path_params["name"], unquote_plus(request.query_params.get("reason", "kicked"))
    kicked = [sockets.close(id, 4500, reason) for id in list(users.get(name, ()))]
    sockets.publish("everybody", f"{name} was kicked")
    return {"kicked": sum(kicked)}


@app.post("/users/:name/tell")
async def tell(request):  # an async handler runs on the event loop of the actors
    for id in list(users.get(request.path_params["name"], ())):
        await sockets.registry[id].close(4001, "please come back", notice=request.body)
    return {"told": True}


sockets.start(port=options.port)
