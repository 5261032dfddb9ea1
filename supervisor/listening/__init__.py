"""From a listening socket to an open WebSocket."""
