"""Which hosts report a VM, by its name and its UUID, kept up with every answer. Pure.

Invariant: it holds what each host reported last. It answers only whole names; beginnings are `lookup`'s.
"""

from collections.abc import Iterable

from kvmove.model.vm import VmStatus


class VmIndex:
    """Reports of VMs by name and UUID."""

    def __init__(self) -> None:
        self._reports: dict[str, dict[tuple[str, str], VmStatus]] = {}

    def put(self, host: str, before: Iterable[VmStatus], now: Iterable[VmStatus]) -> None:
        """The host reported `before` the last time, and reports `now`."""
        for vm in before:
            for key in _keys(vm):
                found = self._reports.get(key)
                if found is not None:
                    found.pop((host, str(vm.definition.uuid)), None)
                    if not found:
                        del self._reports[key]
        for vm in now:
            for key in _keys(vm):
                self._reports.setdefault(key, {})[host, str(vm.definition.uuid)] = vm

    def named(self, text: str) -> list[VmStatus]:
        """What is reported of the VMs that are called `text`, or have it as their UUID."""
        found = {**self._reports.get(text, {}), **self._reports.get(text.lower(), {})}
        return [vm for vm in found.values() if text == vm.definition.name or text.lower() == str(vm.definition.uuid)]


def _keys(vm: VmStatus) -> tuple[str, str]:
    return vm.definition.name, str(vm.definition.uuid)
