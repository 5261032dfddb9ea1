"""The pump: what it passes on, what comes back from it, and how each process's end reaches the other."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from supervisor.proxy.channel import Word
from supervisor.restarts import BackoffClock
from tests.programs import alive
from tests.raw import BINARY, DEADLINE, RawClient, encode
from tests.supervisor.sites import (
    GET,
    MB,
    UPGRADE,
    Site,
    answer_gets,
    asyncio_only,
    dialed,
    read,
    resident,
    site,
)
from tests.witness import until

pytestmark = asyncio_only


def pid_of(there: Site) -> int:
    assert there.http.pump is not None
    assert there.http.pump.pid is not None
    return there.http.pump.pid


async def ask_one(client: RawClient) -> None:
    """Send a request, and read the answer of ``answer_gets``."""
    await client.send_bytes(GET)
    assert (await client.read_head())[0] == 200
    await read(client, b"hi")


# -- connections ---------------------------------------------------------------------------------


async def test_requests_and_answers_go_through_unchanged_on_one_connection() -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        for _ in range(3):
            await ask_one(client)

        assert not there.http.here.open


async def test_a_websocket_asked_for_on_a_connection_that_was_kept_alive_comes_back() -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        await ask_one(client)

        assert await client.request("/ws") == 101
        await client.send("over the same connection")

        assert (await client.frame()).text == "over the same connection"
        assert len(there.server.connections) == 1
        await client.send_close(1000)
        assert (await client.frame()).close == (1000, "")
        assert await client.rest_of_bytes() == b""
        assert client.over == "eof"


async def test_what_was_sent_behind_the_upgrade_without_waiting_comes_back_with_it() -> None:
    message = os.urandom(200_000)
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        await ask_one(client)
        await client.send_bytes(UPGRADE + encode(BINARY, message))

        assert (await client.read_head())[0] == 101
        assert (await client.frame()).payload == message


async def test_the_end_of_the_client_is_passed_on_and_the_answer_still_comes() -> None:
    async def answer_after_the_end(client: RawClient) -> None:
        received = await client.rest_of_bytes()
        await client.send_bytes(b"got %d" % len(received))

    async with site(answer_after_the_end, pump=True) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        client.finish()

        assert await client.rest_of_bytes() == b"got %d" % len(GET)
        assert client.over == "eof"


async def test_a_client_that_resets_the_connection_is_missed_on_the_other_side() -> None:
    gone = anyio.Event()

    async def send_for_ever(client: RawClient) -> None:
        with suppress(ConnectionError):
            while True:
                await client.send_bytes(b"x" * 65536)
        gone.set()

    async with site(send_for_ever, pump=True) as there, dialed(there.port) as client:
        await client.send_bytes(GET)
        assert await client.receive()

        client.reset()

        with anyio.fail_after(DEADLINE):
            await gone.wait()


async def test_100_mb_go_both_ways_with_flat_memory_in_both_processes() -> None:
    size = 100 * MB
    sizes: dict[int | str, list[int]] = {}

    async def echo(client: RawClient) -> None:
        while await client.receive():
            data = bytes(client.wire)
            client.wire.clear()
            await client.send_bytes(data)

    async def send(client: RawClient) -> None:
        await client.send_bytes(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(100):
            await client.send_bytes(bytes(MB))
        client.finish()

    async with (
        site(echo, pump=True) as there,
        dialed(there.port) as client,
        anyio.create_task_group() as task_group,
    ):
        task_group.start_soon(send, client)
        received = 0
        while await client.receive():
            received += len(client.wire)
            client.wire.clear()
            for pid in (pid_of(there), "self"):
                sizes.setdefault(pid, []).append(resident(pid))

    assert received > size
    for seen in sizes.values():
        assert max(seen) - seen[len(seen) // 4] < 8 * MB


async def test_a_client_keeps_its_loopback_address_for_as_long_as_it_is_piped() -> None:
    async with site(answer_gets, pump=True) as there:
        client = await RawClient.dial(there.port, source="127.0.0.2")
        await ask_one(client)
        assert set(there.http.sources._open) == {"127.1.0.1"}

        client.close()

        await until(lambda: not there.http.sources._open)


# -- what stays with the server --------------------------------------------------------------------


async def test_a_first_read_that_is_no_message_stays_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.proxy.pump.MOST", len(GET))
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        await ask_one(client)

        assert len(there.http.here.open) == 1


async def test_without_a_pump_everything_stays_with_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for executable, said in (("/bin/false", "with status 1; HTTP"), ("/nothing", "cannot be started")):
        monkeypatch.setattr(sys, "executable", executable)
        async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
            await ask_one(client)

            assert len(there.http.here.open) == 1
            assert said in caplog.text


# -- the ends --------------------------------------------------------------------------------------


async def test_when_the_pump_is_killed_its_connections_end_and_another_one_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        from_elsewhere = await RawClient.dial(there.port, source="127.0.0.2")
        await ask_one(client)
        await ask_one(from_elsewhere)
        first = pid_of(there)

        os.kill(first, signal.SIGKILL)

        for lost in (client, from_elsewhere):
            await lost.rest_of_bytes()
            lost.close()
        await until(lambda: "another one follows" in caplog.text)
        async with dialed(there.port) as meanwhile:
            await ask_one(meanwhile)
        assert there.http.pump is not None
        await until(lambda: there.http.pump.ready)
        assert pid_of(there) != first
        assert not there.http.sources._open
        async with dialed(there.port) as again:
            await ask_one(again)
            await until(lambda: not there.http.here.open)


async def test_signals_are_not_for_the_pump() -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid_of(there), number)
            await ask_one(client)


async def test_a_connection_that_the_pump_has_no_descriptor_for_is_lost_and_the_next_one_is_not() -> None:
    async with site(answer_gets, pump=True) as there:
        pid = pid_of(there)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        free = min(set(range(len(taken) + 1)) - taken)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limits[1]))
        with contextlib.closing(await RawClient.dial(there.port, source="127.0.0.2")) as lost:
            await lost.send_bytes(GET)
            assert await lost.rest_of_bytes() == b""
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

        await until(lambda: not there.http.sources._open)
        async with dialed(there.port) as client:
            await ask_one(client)
            assert not there.http.here.open


async def test_when_it_ends_it_ends_the_quiet_connections_and_waits_for_the_answers_to_come() -> None:
    asked, may_answer = anyio.Event(), anyio.Event()

    async def answer_late(client: RawClient) -> None:
        if await client.receive():
            asked.set()
            await client.rest_of_bytes()  # it is told that no request comes any more
            await may_answer.wait()
            await client.send_bytes(bytes(client.wire))

    async with site(answer_late, pump=True) as there, dialed(there.port) as client:
        there.http.last_answers()
        await client.send_bytes(GET)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(there.http.finish)
            await anyio.lowlevel.checkpoint()
            may_answer.set()

            assert await client.rest_of_bytes() == GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            client.finish()


async def test_when_it_is_stopped_every_connection_ends_and_the_process() -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        await ask_one(client)
        pid = pid_of(there)

        there.http.abort()

        assert not alive(pid)
        assert await client.rest_of_bytes() == b""


# -- a pump that hangs, or cannot be had -----------------------------------------------------------


async def test_a_stopped_pump_is_killed_and_another_one_follows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        assert there.http.pump is not None
        await ask_one(client)
        first = pid_of(there)
        monkeypatch.setattr("supervisor.proxy.pump.LOOK_EVERY", 0.3)
        there.http.pump._looking.cancel()
        there.http.pump._look()

        os.kill(first, signal.SIGSTOP)

        async with dialed(there.port) as hung:
            await hung.send_bytes(GET)
            assert await hung.rest_of_bytes() == b""
        assert await client.rest_of_bytes() == b""
        assert f"the pump (pid {first}) does not answer; another one follows" in caplog.text
        assert not alive(first)
        await until(lambda: there.http.pump.ready)
        async with dialed(there.port) as again:
            await ask_one(again)
            assert not there.http.here.open
        assert pid_of(there) != first


async def test_a_full_channel_does_not_keep_a_stopped_pump_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("supervisor.proxy.pump.LOOK_EVERY", 0.3)
    async with site(answer_gets, pump=True) as there:
        assert there.http.pump is not None
        first = pid_of(there)
        os.kill(first, signal.SIGSTOP)
        channel = there.http.pump._channel
        assert channel is not None
        while channel.offer(Word.LAST_ANSWERS, b"x" * 1000):
            pass
        there.http.pump.last_answers()

        async with dialed(there.port) as client:  # it stays with the server
            await ask_one(client)
        await until(lambda: not alive(first))
        await until(lambda: there.http.pump.ready and pid_of(there) != first)


async def test_the_end_does_not_wait_for_a_stopped_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.proxy.pump.LOOK_EVERY", 0.3)
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        await ask_one(client)
        os.kill(pid_of(there), signal.SIGSTOP)

        with anyio.fail_after(DEADLINE):
            await there.http.finish()


async def test_a_server_that_was_held_up_does_not_blame_the_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        first = pid_of(there)
        monkeypatch.setattr("supervisor.proxy.pump.LOOK_EVERY", 0.05)
        there.http.pump._looking.cancel()
        there.http.pump._look_later()
        for _ in range(3):
            await anyio.sleep(0.1)
            time.sleep(0.5)  # noqa: ASYNC251 - what a hook may do

        await ask_one(client)
        assert pid_of(there) == first
        assert there.http.pump.ready


async def test_a_pump_that_does_not_come_to_work_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    hangs = tmp_path / "python"
    hangs.write_text("#!/bin/sh\nexec sleep 3600\n")
    hangs.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(hangs))
    monkeypatch.setattr("supervisor.proxy.pump.LOOK_EVERY", 0.01)
    async with site(answer_gets, pump=True) as there, dialed(there.port) as client:
        assert "does not answer; HTTP goes on without" in caplog.text
        assert not alive(pid_of(there))
        await ask_one(client)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENOENT])
@pytest.mark.parametrize("what", ["socket.socketpair", "subprocess.Popen"])
async def test_a_pump_that_cannot_be_started_for_a_moment_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str, number: int
) -> None:
    module, _, name = what.partition(".")
    real = getattr({"socket": socket, "subprocess": subprocess}[module], name)
    refusals = [OSError(number, os.strerror(number))] * 3

    def refuse(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(f"supervisor.proxy.pump.{what}", refuse)
    async with site(answer_gets, pump=True) as there:
        assert there.http.pump is not None
        async with dialed(there.port) as client:
            await ask_one(client)
        await until(lambda: there.http.pump.ready)
        async with dialed(there.port) as client:
            await ask_one(client)
            assert not there.http.here.open
    assert caplog.text.count("the pump cannot be started: ") == 3


async def test_a_pump_that_cannot_be_started_for_long_is_not_tried_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []
    next_delay = BackoffClock.next_delay

    def seen(clock: BackoffClock, lived: float, chance: float) -> float:
        delays.append(next_delay(clock, lived, chance))
        return delays[-1]

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(BackoffClock, "next_delay", seen)
    monkeypatch.setattr("supervisor.proxy.pump.subprocess.Popen", refuse)
    async with site(answer_gets, pump=True):
        await until(lambda: len(delays) >= 3)

    assert delays[0] == 0
    assert 0 < delays[1] < delays[2]
