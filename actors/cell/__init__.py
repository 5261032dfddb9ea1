"""One actor at work: its cell, its hooks, its lives, and the close of a connection."""
