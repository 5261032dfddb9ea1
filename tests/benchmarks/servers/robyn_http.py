"""Plain HTTP by Robyn, alone or behind the pipe: ``robyn_http PORT FOLDER [--piped]``."""

from __future__ import annotations

import argparse

from robyn import Robyn

from supervisor.robyn import supervise

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("folder", help="whose files are served under /files")
parser.add_argument("--piped", action="store_true")
given = parser.parse_args()

app = Robyn(__file__)
app.serve_directory("/files", given.folder)


@app.get("/plain")
def plain():  # type: ignore[no-untyped-def]  # as a user of Robyn writes it
    return "hello"


@app.get("/async")
async def asynchronous():  # type: ignore[no-untyped-def]  # as above
    return "hello"


if given.piped:
    supervise(app).start(port=given.port)
else:
    app.start(port=given.port)
