"""The matrix: every way to move a VM, one small VM a case, one after the other in one lab.

A case that goes wrong does not end the run. Each case is a file of its own (matrix_run), and so are what cases there
are (matrix_cases) and what they were (matrix_judge).
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from kvmove.lab.guest.image import build
from kvmove.lab.lab import Lab
from kvmove.lab.matrix_cases import Case
from kvmove.lab.matrix_judge import Judged, judge
from kvmove.lab.matrix_run import Bench, CaseRun
from kvmove.lab.moving import Audience
from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.units import GIB

MATRIX_LAB = LabSpec(nics=(0, 0), datastore=DatastoreSpec(size=4 * GIB), shared=True, block=12)
"""Twelve devices: a case needs three on either side, and those that its move left are free again seconds later."""


async def run_matrix(
    cases: Sequence[Case], guest_folder: Path, audience: Audience, tell: Callable[[Judged], None]
) -> list[Judged]:
    """Run the cases one after the other in a lab that is gone in the end; `tell` hears of each at once.

    :raise KvmoveError: the lab could not be built.
    """
    image = await asyncio.to_thread(build, guest_folder)
    found: list[Judged] = []
    async with Lab.passing("matrix", MATRIX_LAB) as lab:
        bench = Bench(lab, image, audience)
        for number, case in enumerate(cases, start=1):
            audience.say(f"{number} of {len(cases)}: {case.name}")
            found.append(judge(case, await CaseRun(bench, case, number).run()))
            tell(found[-1])
    return found
