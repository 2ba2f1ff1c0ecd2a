"""The archive is read back by the format's rules, and by cpio's own rules of padding."""

from kvmove.lab.guest.cpio import Entry, archive


def _read(data: bytes) -> list[tuple[str, int, bytes]]:
    found: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_at = at + 110
        name = data[name_at : name_at + fields[11] - 1].decode()
        content_at = (name_at + fields[11] + 3) // 4 * 4
        content = data[content_at : content_at + fields[6]]
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], content))
        at = (content_at + fields[6] + 3) // 4 * 4


def test_what_goes_in_comes_out() -> None:
    entries = [Entry.folder("dev"), Entry.file("init", b"12345", executable=True), Entry.file("a/bcd", b"x" * 9)]
    data = archive(entries)
    assert len(data) % 512 == 0
    assert _read(data) == [("dev", 0o40755, b""), ("init", 0o100755, b"12345"), ("a/bcd", 0o100644, b"x" * 9)]
    assert archive(entries) == data


def test_the_console_is_a_device() -> None:
    data = archive([Entry.console("dev/console")])
    assert _read(data)[0][1] == 0o20600
    assert data[6 + 8 * 9 : 6 + 8 * 11] == b"0000000500000001"
