"""The init (PID 1) of one host of a lab: `python -m kvmove.lab.host_init CONFIG`, started inside fresh namespaces.

It brings up loopback, mounts the host's datastores, and on the word `start` runs the host's services (the agent)
and starts them again when they fail. It reaps every orphan, QEMUs among them, and never signals a process that it
did not start itself. It ends when told (`stop`, SIGTERM, or its standard input closed), and the kernel then ends
every process of the host and takes its network, mounts and loop devices away: nothing has to be undone by hand.

It speaks JSON lines: commands on standard input, events on standard output. Standard library only, because it has
to start fast and must not fail for want of anything.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvmove.lab.restarts import RestartPolicy, ended_cleanly, next_delay

STOP_GRACE = 5.0
"""Seconds that services get between SIGTERM and the end of everything."""


@dataclass
class Service:
    """A program that the host keeps running. `delay` is the last wait before a restart, in seconds. `released`: it was
    held and is ending still; it is to start again then."""

    name: str
    argv: list[str]
    log: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay: float = 0.0
    due: float | None = None
    held: bool = False
    released: bool = False


@dataclass
class HostConfig:
    """What the supervisor wrote for this host. `mounts` are argument lists of mount(8)."""

    hostname: str
    mounts: list[list[str]] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def read_config(path: Path) -> HostConfig:
    """The configuration as the supervisor wrote it; not checked, it comes from this program itself."""
    raw = json.loads(path.read_text())
    raw["services"] = [Service(**service) for service in raw["services"]]
    return HostConfig(**raw)


def emit(event: str, **facts: object) -> None:
    """Tell the supervisor; if nobody listens any more, the closed standard input ends this host soon anyway."""
    try:
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pass


class Init:
    """The one loop of the host: commands, ended children, restarts that fall due."""

    def __init__(self, config: HostConfig, policy: RestartPolicy | None = None) -> None:
        self.config = config
        self.policy = policy or RestartPolicy()
        self.stopping = False
        self.pending = b""
        self.wake_reader, self.wake_writer = os.pipe()
        os.set_blocking(self.wake_writer, False)
        os.set_blocking(self.wake_reader, False)

    def prepare(self) -> None:
        """Make the fresh namespaces a host: its name, its own /sys, loopback, its datastores."""
        run(["hostname", self.config.hostname])
        run(["mount", "-t", "sysfs", "sysfs", "/sys"])
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        run(["ip", "link", "set", "lo", "up"])
        for arguments in self.config.mounts:
            run(["mount", *arguments])

    def run(self) -> None:
        """Serve until told to stop; returns with every service ended or given up on."""
        signal.set_wakeup_fd(self.wake_writer)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with selectors.DefaultSelector() as selector:
            selector.register(self.wake_reader, selectors.EVENT_READ, self.on_signal)
            selector.register(0, selectors.EVENT_READ, self.on_input)
            emit("up")
            while not self.stopping:
                for key, _ in selector.select(self.time_to_next()):
                    key.data()
                self.start_due()
        self.stop_services()

    def on_signal(self) -> None:
        received = os.read(self.wake_reader, 64)
        if signal.SIGTERM in received:
            self.stopping = True
        self.reap()

    def on_input(self) -> None:
        received = os.read(0, 65536)
        if not received:
            self.stopping = True
            return
        *lines, self.pending = (self.pending + received).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))

    def obey(self, command: dict[str, Any]) -> None:
        """Carry out one command: `start`, `stop`, `hold` or `release` of a service by name."""
        match command["do"]:
            case "start":
                for service in self.config.services:
                    self.start(service)
            case "stop":
                self.stopping = True
            case "hold":
                self.hold(self.service(command["service"]))
            case "release":
                self.release(self.service(command["service"]))

    def service(self, name: str) -> Service:
        return next(service for service in self.config.services if service.name == name)

    def hold(self, service: Service) -> None:
        """End a service politely and keep it down until released."""
        service.held, service.released, service.due = True, False, None
        if service.process is not None:
            service.process.terminate()

    def release(self, service: Service) -> None:
        """Start it again, or let that be done at its end, which may be some seconds away."""
        was_held, service.held, service.delay = service.held, False, 0.0
        if service.process is None:
            self.start(service)
        else:
            service.released = was_held

    def start(self, service: Service) -> None:
        """Start it in a session of its own, so that no signal meant for it reaches what it started."""
        with Path(service.log).open("ab") as log:
            service.process = subprocess.Popen(
                service.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={**os.environ, **self.config.environment}, start_new_session=True,
            )  # fmt: skip
        service.started, service.due, service.released = time.monotonic(), None, False
        emit("started", service=service.name, pid=service.process.pid)

    def reap(self) -> None:
        """Collect every ended child; those of services are put down for a restart if they failed."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for service in self.config.services:
                if service.process is not None and service.process.pid == pid:
                    self.on_end(service, os.waitstatus_to_exitcode(status))

    def on_end(self, service: Service, returncode: int) -> None:
        if service.process is not None:
            service.process.returncode = returncode
        now = time.monotonic()
        service.process = None
        if service.released and not self.stopping:
            service.due = now
        elif not (service.held or self.stopping or ended_cleanly(returncode)):
            service.delay = next_delay(self.policy, service.delay, now - service.started)
            service.due = now + service.delay
        restart = service.delay if service.due is not None else None
        emit("ended", service=service.name, returncode=returncode, restart_in=restart)

    def time_to_next(self) -> float | None:
        due = [service.due for service in self.config.services if service.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def start_due(self) -> None:
        for service in self.config.services:
            if service.due is not None and service.due <= time.monotonic():
                self.start(service)

    def stop_services(self) -> None:
        """SIGTERM to the services, a grace time, no more: what is left ends with this process."""
        for service in self.config.services:
            if service.process is not None:
                service.process.terminate()
        deadline = time.monotonic() + STOP_GRACE
        while any(service.process for service in self.config.services) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.01)


def run(argv: list[str]) -> None:
    """Run a command of the preparation; a failure ends this init, and its words are in the host's log."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    """Be the init of the host that the configuration file describes."""
    init = Init(read_config(Path(sys.argv[1])))
    try:
        init.prepare()
    except (OSError, subprocess.CalledProcessError) as error:
        emit("failed", reason=str(error))
        raise
    init.run()


if __name__ == "__main__":
    main()
