"""A server in a process of its own, its honest clients, and those who attack it."""
