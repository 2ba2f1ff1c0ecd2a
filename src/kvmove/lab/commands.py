"""Running the machine's own programs (`ip`, `tc`, `mkfs.xfs`, `nsenter`) and saying plainly what failed."""

import subprocess

from kvmove.errors import KvmoveError


class LabFailed(KvmoveError):
    """The lab could not be built or used. What was built is taken down by whoever owns it."""

    code, title, status, exit_code = "LAB_FAILED", "The lab failed", 500, 1


def run(argv: list[str], text: str = "", timeout: float = 60.0) -> str:
    """Run a command with `text` as its input and return its standard output.

    :raise LabFailed: it is not installed, ended with an error, or took longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise LabFailed(f"the program {argv[0]} is not installed", hint="run `make setup`") from error
    except subprocess.TimeoutExpired as error:
        raise LabFailed(f"`{' '.join(argv)}` did not end within {timeout:.0f} s") from error
    if done.returncode != 0:
        raise LabFailed(f"`{' '.join(argv)}` failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


def in_network(pid: int, argv: list[str]) -> list[str]:
    """The command that runs `argv` in the network of process `pid`."""
    return ["nsenter", "--target", str(pid), "--net", "--", *argv]


def in_host(pid: int, argv: list[str]) -> list[str]:
    """The command that runs `argv` inside the host whose init is `pid`: its network, mounts, name and processes."""
    return ["nsenter", "--target", str(pid), "--net", "--mount", "--uts", "--pid", "--", *argv]
