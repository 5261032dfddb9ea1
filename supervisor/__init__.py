"""Supervision for actors: policies, strategies, drain, and servers for their WebSockets."""

try:
    from actors import Overflow
except ImportError as error:  # pragma: no cover - only in a broken environment
    raise ImportError(
        "supervisor: the package 'actors' of connection-supervisor is missing or another one; "
        "install connection-supervisor into an environment of its own"
    ) from error
from supervisor import events

if not hasattr(events, "Hook"):
    raise ImportError(
        "supervisor: the module 'supervisor.events' is not of connection-supervisor, but probably of "
        "supervisord; install connection-supervisor into an environment of its own"
    )
from actors.errors import ChildStartFailed, RestartLimitReached
from supervisor.admission.options import Admission
from supervisor.connections.drain import Drain
from supervisor.description import Description
from supervisor.events import DrainReport
from supervisor.listening.routes import Route
from supervisor.listening.server import Server, serve
from supervisor.policies import Backoff, Heartbeat, Limits, OnCrash, Policy, RestartLimit, Timeouts
from supervisor.registry import Registry
from supervisor.tree.specs import ChildSpec
from supervisor.tree.strategies import AutoShutdown, Restart, Strategy
from supervisor.tree.tree import Supervisor, Tree

__all__ = [
    "Admission",
    "AutoShutdown",
    "Backoff",
    "ChildSpec",
    "ChildStartFailed",
    "Description",
    "Drain",
    "DrainReport",
    "Heartbeat",
    "Limits",
    "OnCrash",
    "Overflow",
    "Policy",
    "Registry",
    "Restart",
    "RestartLimit",
    "RestartLimitReached",
    "Route",
    "Server",
    "Strategy",
    "Supervisor",
    "Timeouts",
    "Tree",
    "serve",
]

for _name in __all__:
    if globals()[_name].__module__ != "actors":
        globals()[_name].__module__ = __name__  # a traceback names things as users import them
del _name
