"""Who may connect, how many and how fast."""
