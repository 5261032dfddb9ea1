"""Sends cases to the app under test, while honest clients look whether it lives; finds what ended it."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.fuzz_http.cases import Case, End
from tests.fuzz_http.grammar import Grammar
from tests.fuzz_http.target import How, Target, target
from tests.raw import PING, PONG, RawClient, encode

AT_ONCE = 16
"""Cases under way at the same time."""
QUIET = 0.25
"""Seconds without a byte after which an answer is taken for whole."""
LONGEST = 3.0
"""Seconds that one case may take."""
PATIENCE = 20.0
"""Seconds within which an honest request and an echo are answered, or the app hangs."""
REMEMBERED = 400
"""Cases that could have ended the app, at most."""


class Ended(Exception):
    """The app has ended, or hangs."""


@dataclass
class Report:
    """What a hunt has done and found."""

    cases: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    honest: int = 0
    echoes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        statuses = ", ".join(f"{status} {number}" for status, number in sorted(self.statuses.items()))
        return (
            f"{self.cases} cases in {self.seconds:.0f} s, "
            f"{sum(self.statuses.values())} answers ({statuses}); "
            f"{self.honest} honest requests and {self.echoes} echoes meanwhile; {len(self.findings)} findings"
        )


@dataclass(frozen=True)
class Finding:
    """What ended the app, as small as it was made, and what the app said at last."""

    case: Case
    words: str


async def play(port: int, case: Case, source: str = "127.0.0.1") -> bytes:
    """Be the client of ``case``; give what came back."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    answer = bytearray()
    try:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.bind((source, 0))
        async with asyncio.timeout(LONGEST):
            await loop.sock_connect(client, ("127.0.0.1", port))
            sending = loop.create_task(_send(client, case))
            try:
                while True:
                    # Who sends much and reads nothing may wait for ever.
                    received = await asyncio.wait_for(loop.sock_recv(client, 1 << 18), QUIET)
                    if not received:
                        break
                    answer += received
                    if case.end is End.RESET and sending.done():
                        break
            except TimeoutError:
                pass
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await sending
    except (OSError, TimeoutError):
        pass
    finally:
        if case.end is End.RESET:
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    return bytes(answer)


async def _send(client: socket.socket, case: Case) -> None:
    loop = asyncio.get_running_loop()
    for number, part in enumerate(case.parts):
        if number:
            await asyncio.sleep(0.001)
        await loop.sock_sendall(client, part)
    if case.end is End.HALF:
        client.shutdown(socket.SHUT_WR)


async def honest(port: int) -> None:
    """Ask like anybody, and get the answer; raises ``Ended`` when there is none."""
    request = b"POST /size HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    loop = asyncio.get_running_loop()
    answer = b""
    with socket.socket() as client:
        client.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, request)
                while received := await loop.sock_recv(client, 1 << 16):
                    answer += received
        except (OSError, TimeoutError) as error:
            raise Ended(f"an honest request got {type(error).__name__}") from error
    if not (answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n5")):
        raise Ended(f"an honest request got {answer!r}")


class Witness:
    """The honest clients beside the cases: requests all the time, and one WebSocket that stays open."""

    def __init__(self, app: Target, report: Report) -> None:
        self._app = app
        self._report = report

    async def watch(self) -> None:
        """Go on until cancelled; raises ``Ended``."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask())
            if self._app.how is not How.ALONE:
                group.create_task(self._echo())

    async def _ask(self) -> None:
        while True:
            await honest(self._app.port)
            self._report.honest += 1
            await asyncio.sleep(0.1)

    async def _echo(self) -> None:
        client = None
        try:
            async with asyncio.timeout(PATIENCE):
                client = await RawClient.dial(self._app.port)
                assert await client.request("/ws") == 101
            for number in count():
                async with asyncio.timeout(PATIENCE):
                    await client.send(str(number))
                    while (echoed := await client.frame()).opcode == PING:
                        await client.send_bytes(encode(PONG, echoed.payload))
                if echoed.text != str(number):
                    raise Ended(f"the WebSocket got {echoed}")
                self._report.echoes += 1
                await asyncio.sleep(0.02)
        except (OSError, TimeoutError, AssertionError) as error:
            raise Ended(f"the WebSocket: {type(error).__name__}: {error}") from error
        finally:
            if client is not None:
                client.close()


class Lives:
    """One life of the app after the other: a new one is started where the last one ended."""

    def __init__(self, how: How, folder: Path) -> None:
        self._how = how
        self._folder = folder
        self._stack = ExitStack()
        self.app: Target | None = None

    def __enter__(self) -> Lives:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def now(self) -> Target:
        """The app that lives."""
        if self.app is None or self.app.ended:
            self.bury()
            self.app = self._stack.enter_context(target(self._how, self._folder))
        return self.app

    def bury(self) -> None:
        """Let another life follow, whatever became of this one."""
        self._stack.close()
        self.app = None

    def ends(self, case: Case) -> bool:
        """Whether the app ends of ``case``, or hangs."""
        app = self.now()

        async def tried() -> None:
            await play(app.port, case)
            await honest(app.port)

        try:
            asyncio.run(tried())
        except Ended:
            with suppress(Exception):  # a hang has no status
                app.program.process.wait(1)
            return True
        return False


def minimised(lives: Lives, case: Case, seconds: float = 60.0) -> Case:
    """A smaller case of which the app ends too; small enough to be read."""
    deadline = time.monotonic() + seconds

    def better(smaller: Case) -> bool:
        if time.monotonic() > deadline or (smaller.size >= case.size and smaller != case):
            return False
        found = lives.ends(smaller)
        if found:
            lives.bury()
        return found

    for simpler in (Case((case.data,)), Case((case.data,), case.end)):
        if simpler != case and better(simpler):
            case = simpler
            break
    step = max(1, len(case.data) // 2)
    while step and time.monotonic() < deadline:
        start = 0
        while start < len(case.data):
            data = case.data[:start] + case.data[start + step :]
            smaller = Case((data,), case.end) if len(case.parts) == 1 else _recut(case, start, start + step)
            if better(smaller):
                case = smaller
            else:
                start += step
        step //= 2
    return case


def _recut(case: Case, start: int, end: int) -> Case:
    """``case`` without the bytes from ``start`` to ``end``, still in its pieces."""
    parts, place = [], 0
    for part in case.parts:
        kept = part[: max(0, start - place)] + part[max(0, end - place) :]
        place += len(part)
        if kept:
            parts.append(kept)
    return Case(tuple(parts), case.end)


class Round:
    """Cases against one life of the app, until it ends or the time is over."""

    def __init__(self, app: Target, cases: Iterator[Case], report: Report, until: float) -> None:
        self._app = app
        self._cases = cases
        self._report = report
        self._until = until
        self.suspects: deque[Case] = deque(maxlen=REMEMBERED)

    async def run(self) -> str | None:
        """Give what is wrong, or ``None``."""
        witness = asyncio.create_task(Witness(self._app, self._report).watch())
        work = asyncio.gather(*(self._work(number) for number in range(AT_ONCE)))
        try:
            await asyncio.wait([witness, work], return_when=asyncio.FIRST_COMPLETED)
            if witness.done():
                return _leaf(witness.exception())
            await work
            await honest(self._app.port)
        except Ended as error:
            return str(error)
        finally:
            for task in (witness, work):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
        return None

    async def _work(self, worker: int) -> None:
        number = 0
        while time.monotonic() < self._until and not self._app.ended:
            case = next(self._cases, None)
            if case is None:
                return
            self.suspects.append(case)
            number = (number + 1) % 200
            answer = await play(self._app.port, case, f"127.{1 + worker}.0.{1 + number}")
            self._report.cases += 1
            for status in _statuses(answer):
                self._report.statuses[status] += 1


def _leaf(error: BaseException | None) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _statuses(answer: bytes) -> Iterator[str]:
    place = 0
    while (place := answer.find(b"HTTP/1.", place)) >= 0:
        status = answer[place + 9 : place + 12]
        if status.isdigit() and (place == 0 or answer[place - 1 : place] != b" "):
            yield status.decode()
        place += 12


def cases_of(seed: object, without: Iterable[str] = (), start: int = 0) -> Iterator[Case]:
    """The cases of a seed, one after the other; number N is the same whatever came before."""
    for number in count(start):
        yield Grammar((seed, number), tuple(without)).case()


def hunt(
    how: How,
    folder: Path,
    cases: Iterator[Case],
    seconds: float,
    *,
    most: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Send cases for a while, or until ``most`` different ends of the app were found."""
    report = Report()
    began = time.monotonic()
    known: set[str] = set()
    with Lives(how, folder) as lives:
        while (until := began + seconds) > time.monotonic() and len(report.findings) < most:
            app = lives.now()
            rounds = Round(app, cases, report, until)
            wrong = asyncio.run(rounds.run())
            report.seconds = time.monotonic() - began
            if wrong is None:
                break
            with suppress(Exception):
                app.program.process.wait(1)
            words = app.last_words
            lives.bury()
            place = words.partition("panicked at ")[2] or wrong
            if place in known:
                continue
            say(f"after {report.cases} cases: {wrong}; {words}")
            known.add(place)
            report.findings.append(_finding(lives, list(rounds.suspects), words))
            say(f"  {report.findings[-1].case}")
    report.seconds = time.monotonic() - began
    return report


def _finding(lives: Lives, suspects: list[Case], words: str) -> Finding:
    """Which one it was, smaller."""
    for case in reversed(suspects[-100:]):
        if lives.ends(case):
            lives.bury()
            return Finding(minimised(lives, case), words)
    return Finding(Case((b"",)), f"{words} (not by one case alone: the last was {suspects[-1]})")
