"""The regions of a disk as a picture of a few hundred cells, one letter each, for people who watch a move. Pure.

Invariant: a cell never promises more than is so: it is COPIED only when all of its regions are, and what has to be sent
(or was sent) once more shows however small it is.
"""

import itertools

from kvmove.mover.region_map import RegionState

CELLS = 512
"""At most so many; a disk of fewer regions has a cell for each."""

UNCOPIED = "."
PARTLY = "-"
COPYING = "*"
COPIED = "#"
AGAIN = "!"  # has to be copied once more
COPIED_AGAIN = "+"


def picture(states: bytes, returned: bytes, cells: int = CELLS) -> str:
    """One letter for each cell. `states` has the `RegionState` of each region, `returned` 1 for each that went back to
    UNCOPIED at least once."""
    count = len(states)
    cells = min(cells, count)
    borders = [count * cell // cells for cell in range(cells + 1)] if cells else [0]
    pairs = itertools.pairwise(borders)
    return "".join(_cell(states[start:stop], returned[start:stop]) for start, stop in pairs)


_IS_UNCOPIED = bytes([1, *[0] * 255])


def _as_number(marks: bytes) -> int:
    """Bytes of 0 and 1, so that two of them are compared at once: a disk may have a million regions."""
    return int.from_bytes(marks, "little")


def _cell(states: bytes, returned: bytes) -> str:
    if RegionState.COPYING in states:
        return COPYING
    copied = states.count(RegionState.COPIED)
    if copied == len(states):
        return COPIED_AGAIN if 1 in returned else COPIED
    if 1 in returned and _as_number(returned) & _as_number(states.translate(_IS_UNCOPIED)):
        return AGAIN
    return PARTLY if copied else UNCOPIED
