"""A policy in the numbers that cells, mailboxes and WebSockets are made with."""

from __future__ import annotations

from actors.mailbox import Bounds
from actors.protocol.websocket import NO_LIMIT, WireLimits
from supervisor.policies import Policy


def bounds_of(policy: Policy) -> Bounds:
    """The bounds of a mailbox under ``policy``."""
    limits = policy.limits
    return Bounds(
        limits.inbound_messages, limits.inbound_bytes, limits.mailbox_messages, limits.mailbox_bytes
    )


def wire_limits_of(policy: Policy) -> WireLimits:
    """The wire limits of a connection under ``policy``."""
    limits = policy.limits
    return WireLimits(
        NO_LIMIT if limits.max_message is None else limits.max_message,
        NO_LIMIT if limits.max_fragments is None else limits.max_fragments,
        limits.control_rate,
        limits.control_burst,
    )
