"""The connections of a server: supervised, watched and drained."""
