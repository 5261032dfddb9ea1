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
from supervisor.admission import Admission
from supervisor.drain import Drain, DrainReport
from supervisor.inspection import Description
from supervisor.policies import Backoff, Heartbeat, Limits, OnCrash, Policy, RestartLimit, Timeouts
from supervisor.registry import Registry
from supervisor.routes import Route
from supervisor.server import Server, serve
from supervisor.specs import ChildSpec
from supervisor.strategies import AutoShutdown, Restart, Strategy
from supervisor.tree import Supervisor, Tree

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
