"""The wire under a connection actor: bytes from asyncio, trio or memory, frames by one sans-I/O WebSocket."""
