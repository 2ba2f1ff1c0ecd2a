"""A folder that is held open, and what is done to its entries by their names.

Invariant: every name is one component and links are not followed, so nothing outside of the folder can be reached,
whatever lies in it and whoever renames what meanwhile. What comes from users reaches a name only after a check
against an alphabet (`model.names`); this is the second line.
"""

import errno
import os
import shutil
import stat
from types import TracebackType
from typing import Self

from kvmove.errors import InvalidInput

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_FILE = 1024 * 1024


class Folder:
    """An open folder. All methods raise OSError as the system calls beneath do."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`."""
        self._fd = fd

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Self:
        """The folder that the administrator named; in this path alone links are followed."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._fd

    def folder(self, name: str) -> "Folder":
        return Folder(os.open(_one_component(name), _OPEN_FOLDER, dir_fd=self._fd))

    def make_folder(self, name: str) -> "Folder":
        """Make a folder that only its owner may enter, and open it. Durable after `sync`."""
        os.mkdir(_one_component(name), 0o700, dir_fd=self._fd)
        return self.folder(name)

    def names(self) -> list[str]:
        with os.scandir(self._fd) as entries:
            return sorted(entry.name for entry in entries)

    def has(self, name: str) -> bool:
        """Whether there is anything of that name, a dangling link too."""
        try:
            os.lstat(_one_component(name), dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def require_file(self, name: str) -> None:
        """:raise OSError: ENOENT when it is not there, ELOOP when it is anything but a plain file."""
        if not stat.S_ISREG(os.lstat(_one_component(name), dir_fd=self._fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)

    def read(self, name: str) -> bytes:
        fd = os.open(_one_component(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        with os.fdopen(fd, "rb") as file:
            return file.read(_LONGEST_FILE)

    def write_new(self, name: str, content: bytes) -> None:
        """Make a file with this content, durably. It must not exist."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(_one_component(name), flags, 0o600, dir_fd=self._fd), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.sync()

    def sync_file(self, name: str) -> None:
        """Make a file's content durable."""
        fd = os.open(_one_component(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, name: str, into: "Folder", new_name: str) -> None:
        """Move an entry, durably."""
        os.rename(_one_component(name), _one_component(new_name), src_dir_fd=self._fd, dst_dir_fd=into._fd)
        into.sync()
        self.sync()

    def remove(self, name: str) -> None:
        """Remove a file or a link itself. Durable after `sync`."""
        os.unlink(_one_component(name), dir_fd=self._fd)

    def remove_tree(self, name: str) -> None:
        """Remove a folder and all in it. Durable after `sync`. Another host may be at the same."""
        shutil.rmtree(_one_component(name), dir_fd=self._fd, onerror=_unless_gone)

    def sync(self) -> None:
        """Make the entries durable."""
        os.fsync(self._fd)

    def space(self) -> tuple[int, int]:
        """Size of the file system, and what of it is free for other users than root, in bytes."""
        system = os.fstatvfs(self._fd)
        return system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize

    def close(self) -> None:
        """May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unless_gone(_call: object, _path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    """What `rmtree` met: that somebody else has removed it is as good."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _one_component(name: str) -> str:
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidInput(f"{name!r} is not the name of a file in a folder")
    return name
