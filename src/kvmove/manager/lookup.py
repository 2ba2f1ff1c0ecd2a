"""Finds what a person means by a name, a UUID or the beginning of either. Pure.

Invariant: an answer is never a guess. Two that fit are an error that names both; none that fits is an error that
names what is close. Where a mistake would cost something (`exact`), a beginning does not do.
"""

import difflib
from collections.abc import Iterable, Sequence
from uuid import UUID

from kvmove.errors import InvalidInput, NotFound
from kvmove.model.vm import VmState, VmStatus


def find_vm(vms: Sequence[VmStatus], text: str, *, exact: bool = False) -> VmStatus:
    """The VM that `text` names: by name, UUID, or (unless `exact`) the beginning of either, if only one begins so.

    :raise NotFound: none; with a hint at close names.
    :raise InvalidInput: more than one.
    """
    for fits in (_is_exactly, _begins_with):
        found = [vm for vm in vms if fits(text, vm)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidInput(
                f"{text!r} could be {_listed(found)}", hint="write the whole name, or the UUID when names are equal"
            )
        if exact:
            break
    raise NotFound(f"there is no VM {text!r}", hint=did_you_mean(text, [vm.definition.name for vm in vms]))


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """A hint at the names that are close to `text`, or else at what there is."""
    known = sorted(set(names))
    close = difflib.get_close_matches(text, known, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not known:
        return "there is none yet"
    return f"there are: {', '.join(known[:10])}{', …' if len(known) > 10 else ''}"


def one_place_each(seen: Iterable[VmStatus]) -> list[VmStatus]:
    """One status for each VM, sorted by name; while it moves, two hosts report it.

    The host that runs it counts, which is the one with the higher epoch; a destination that still waits for memory
    never does.
    """
    best: dict[UUID, VmStatus] = {}
    for vm in seen:
        key = vm.definition.uuid
        if key not in best or _weight(vm) > _weight(best[key]):
            best[key] = vm
    return sorted(best.values(), key=lambda vm: (vm.definition.name, vm.definition.uuid.int))


def _weight(vm: VmStatus) -> tuple[bool, int, bool]:
    return vm.state is not VmState.INCOMING, vm.epoch, vm.state is not VmState.UNKNOWN


def _is_exactly(text: str, vm: VmStatus) -> bool:
    return text == vm.definition.name or text.lower() == str(vm.definition.uuid)


def _begins_with(text: str, vm: VmStatus) -> bool:
    names = (vm.definition.name.lower(), str(vm.definition.uuid))
    return bool(text) and any(name.startswith(text.lower()) for name in names)


def _listed(vms: Sequence[VmStatus]) -> str:
    return " or ".join(f"{vm.definition.name} ({vm.definition.uuid}, on {vm.host})" for vm in vms)
