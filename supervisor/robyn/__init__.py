"""supervise(app): a Robyn app with actors."""

from supervisor.robyn.app import RobynSockets, supervise

__all__ = ["RobynSockets", "supervise"]
