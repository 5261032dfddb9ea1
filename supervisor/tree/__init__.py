"""The supervisor tree: children, strategies and restarts."""
