"""The source's channel relay in a process of its own: it outlives the agent, and so do QEMU's channels.

    agent -> relay   one line of JSON (`RelayOrder`), then one for each change of the rate (`RelayRate`). The end of the
                     input says that the move is given up, or that the agent is gone; nothing more is sent then, and
                     QEMU's channels are read until it closes them
    relay -> agent   lines of JSON (`RelayNews`), the first once it listens

It ends when QEMU has closed its channels. Nothing of it is on the command line: the order holds the move's ticket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from kvmove.log_context import current_move, inherited
from kvmove.logs import set_up_logging
from kvmove.memory.channel_relay import SourceRelay
from kvmove.model.move import Route
from kvmove.model.strict import Strict
from kvmove.pki.contexts import LiveContext, client_context
from kvmove.transport.dial import Dialer
from kvmove.transport.stream import Stream, StreamLost
from kvmove.wire.handshake import StreamRole

log = logging.getLogger(__name__)

NEWS_SECONDS = 0.05
READY_SECONDS = 20.0
NEWS_WAIT_SECONDS = 1.0
"""So long may the relay take to give its last figures; they are for the report alone."""

QUIET_SECONDS = 2.0
"""After the move is given up and QEMU has closed its channels: so long may it still open others."""


class RelayOrder(Strict):
    """What to relay: QEMU will connect to `path`; `routes` has the NIC pair of each channel, main first.

    `pki` None means in clear. `ticket` is hexadecimal. `give_up`: so many seconds may a channel be without any route.
    """

    path: Path
    routes: tuple[Route, ...]
    move_id: str
    ticket: str
    pki: Path | None
    server_name: str
    give_up: float


class RelayRate(Strict):
    """From now on: bytes/s over all channels; None is no limit, 0 holds them."""

    rate: int | None


class RelayNews(Strict):
    """Bytes sent by NIC, how often a connection took the place of another, and what of the network failed for good."""

    sent: dict[str, int] = {}
    resumed: int = 0
    failure: str = ""
    is_last: bool = False


class RelayProcess:
    """The agent's handle of a relay. It knows what the relay said last, and that it ended."""

    def __init__(self, order: RelayOrder) -> None:
        self._news = RelayNews()
        self._ready = threading.Event()
        self._heard_last = threading.Event()
        self._ended = ""
        self._rate: int | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kvmove.memory.relay_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(order.model_dump_json().encode() + b"\n")
        self._process.stdin.flush()
        self._thread = threading.Thread(target=inherited(self._listen), name="relay-news", daemon=True)
        self._thread.start()

    def wait_ready(self) -> None:
        """:raise StreamLost: the relay does not listen."""
        if not self._ready.wait(READY_SECONDS) or self._ended:
            raise StreamLost(f"the memory relay did not start: {self._ended or 'it says nothing'}")

    def sent(self) -> dict[str, int]:
        """Bytes sent so far, by NIC."""
        return dict(self._news.sent)

    def resumed(self) -> int:
        """How often a channel has gone on over another connection."""
        return self._news.resumed

    def why(self) -> str:
        """What of the network failed for good, or the relay itself; empty while all is well."""
        return self._news.failure or self._ended

    def limit(self, rate: int | None) -> None:
        """See `RelayRate`. QEMU is slowed, or held, as by a slow network. No harm when the relay has ended."""
        assert self._process.stdin is not None
        if rate == self._rate:
            return
        self._rate = rate
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was closed
            self._process.stdin.write(RelayRate(rate=rate).model_dump_json().encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Give up what is still under way. The relay ends by itself once QEMU has closed its channels."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait_last_news(self) -> None:
        """After `close`: wait until `sent` is final, but not for long."""
        self._heard_last.wait(NEWS_WAIT_SECONDS)

    def join(self) -> None:
        """Wait until the relay has ended: after `close`, once QEMU has closed its channels."""
        self._thread.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValidationError):
                self._news = RelayNews.model_validate_json(line)
                self._ready.set()
                if self._news.is_last:
                    self._heard_last.set()
        code = self._process.wait()
        self._process.stdout.close()
        if code:
            self._ended = f"the memory relay ended with {code}"
        self._ready.set()
        self._heard_last.set()


def main() -> None:
    """The relay itself."""
    set_up_logging()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with QEMU's channels
    lines = _Lines(sys.stdin.fileno())
    order = RelayOrder.model_validate_json(lines.wait())
    current_move.set(order.move_id)
    context = LiveContext(order.pki, client_context) if order.pki is not None else None
    dialer = Dialer(order.move_id, bytes.fromhex(order.ticket), context, order.server_name)

    def dial(route: Route, channel: int, attempt: int) -> Stream:
        return dialer.open(route, StreamRole.MEMORY, channel, attempt)

    relay = SourceRelay(order.path, order.routes, dial, order.give_up)
    relay.start()
    _tell_until_told_to_end(relay, lines)
    relay.give_up()
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        if relay.open_channels:
            quiet_since = time.monotonic()
        time.sleep(NEWS_SECONDS)
    relay.close()


class _Lines:
    """What comes over a pipe, in lines."""

    def __init__(self, pipe: int) -> None:
        self.ended = False
        self._pipe = pipe
        self._read = b""

    def wait(self) -> bytes:
        """The next line; empty when none will come."""
        while b"\n" not in self._read and not self.ended:
            self._more()
        line, _, self._read = self._read.partition(b"\n")
        return line

    def look(self, seconds: float) -> list[bytes]:
        """The whole lines that are there within so long."""
        if select.select([self._pipe], [], [], seconds)[0]:
            self._more()
        *whole, self._read = self._read.split(b"\n")
        return whole

    def _more(self) -> None:
        data = os.read(self._pipe, 65536)
        self.ended = not data
        self._read += data


def _tell_until_told_to_end(relay: SourceRelay, lines: _Lines) -> None:
    """News to the agent until its end of the pipe is closed, and once more then; what it says of the rate is done."""
    is_last, wait = False, 0.0
    while not is_last:
        for line in lines.look(wait):
            relay.bandwidth.set_cap(RelayRate.model_validate_json(line).rate)
        is_last, wait = lines.ended, NEWS_SECONDS
        news = RelayNews(sent=relay.sent(), resumed=relay.resumed(), failure=relay.why(), is_last=is_last)
        try:
            os.write(sys.stdout.fileno(), news.model_dump_json().encode() + b"\n")
        except OSError:
            return  # the agent is gone


if __name__ == "__main__":
    main()
