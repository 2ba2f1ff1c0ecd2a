"""Folders and files that their owner alone may read: keys, certificates, configurations that hold a secret.

Invariant: a file appears whole or not at all, and nobody else can read it from its first byte on.
"""

import os
from pathlib import Path


def private_folder(folder: Path) -> None:
    """Make `folder` (0700) with its parents; one that is there becomes 0700."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Put the file there (0600), durably, in place of one that is there.

    :raise OSError: it cannot be written; what was there stays.
    """
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
