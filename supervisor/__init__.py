"""Supervision for actors: policies, strategies, drain, and servers for their WebSockets."""

try:
    from actors import Overflow
except ImportError as error:  # pragma: no cover - only in a broken environment
    raise ImportError(
        "supervisor: the package 'actors' of connection-supervisor is missing or another one; "
        "install connection-supervisor into an environment of its own"
    ) from error
from supervisor.drain import DrainReport
from supervisor.policies import Backoff, Heartbeat, Limits, OnCrash, Policy, RestartLimit, Timeouts
from supervisor.registry import Registry
from supervisor.routes import Route
from supervisor.server import Server, serve
from supervisor.specs import ChildSpec, Restart

__all__ = [
    "Backoff",
    "ChildSpec",
    "DrainReport",
    "Heartbeat",
    "Limits",
    "OnCrash",
    "Overflow",
    "Policy",
    "Registry",
    "Restart",
    "RestartLimit",
    "Route",
    "Server",
    "Timeouts",
    "serve",
]

for _name in __all__:
    if _name != "Overflow":
        globals()[_name].__module__ = __name__  # a traceback names things as users import them
del _name
