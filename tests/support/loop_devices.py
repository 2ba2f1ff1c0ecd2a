"""Block devices for a test: loop devices over sparse files; needs root."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def loop_devices(folder: Path, sizes: Sequence[int], *, sector: int = 512) -> Iterator[list[Path]]:
    """One per size (bytes), with logical blocks of `sector` bytes; gone afterwards."""
    with ExitStack() as undo:
        yield [_attach(folder / f"device-{number}.img", size, sector, undo) for number, size in enumerate(sizes)]


def _attach(image: Path, size: int, sector: int, undo: ExitStack) -> Path:
    with image.open("xb") as file:
        file.truncate(size)
    undo.callback(image.unlink)
    device = _run("losetup", "--find", "--show", "--sector-size", str(sector), str(image))
    undo.callback(_run, "losetup", "--detach", device)
    return Path(device)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
