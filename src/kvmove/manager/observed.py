"""What can be watched of a manager: its events, its figures and its last log lines, put together."""

from dataclasses import dataclass
from pathlib import Path

from kvmove.logs import RecentLines
from kvmove.manager.events import EventLog
from kvmove.manager.inventory import Inventory
from kvmove.manager.metrics import ManagerMetrics
from kvmove.manager.task_book import TaskBook


@dataclass(frozen=True)
class Observed:
    events: EventLog
    metrics: ManagerMetrics
    recent: RecentLines


def observe(inventory: Inventory, book: TaskBook, recent: RecentLines, pki: Path) -> Observed:
    """Watch `inventory` and `book` from now on. `pki` holds the manager's own certificate."""
    events = EventLog()
    metrics = ManagerMetrics(inventory, book, pki)

    def asked() -> None:
        events.hosts(inventory.hosts())
        events.vms(inventory.vms())

    for task in reversed(book.running()):
        events.task(task)
    book.listen(events.task)
    book.listen(metrics.heard)
    inventory.listen(asked, metrics.answered)
    return Observed(events, metrics, recent)
