"""What a move is asked for with on the command line: one list of options, for every command that plans one.

Invariant: an option here is a field of `MoveRequest`; what a value means is the model's to say. Options that say how a
command behaves (--no-wait, --dry-run) belong to the command.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kvmove.cli.param_types import DATASTORE, Assignment, Milliseconds, Moment, OneOf
from kvmove.model.finding import Acceptable
from kvmove.model.move import MoveRequest, Via
from kvmove.model.priority import Priority
from kvmove.model.terms import AUTO, MOST_SLOWDOWN, NO_CAP, Compress, Policy
from kvmove.model.toml_file import fit
from kvmove.model.vm import DiskFormat, Provisioning

F = TypeVar("F", bound=Callable[..., Any])

_DISKS = (
    click.option(
        "--datastore",
        metavar="NAME",
        type=DATASTORE,
        help="Where all disks go on HOST; by default shared ones stay, others go to datastores of equal name.",
    ),
    click.option(
        "--disk",
        "disks",
        multiple=True,
        type=Assignment(),
        metavar="NAME=DATASTORE[:FORMAT]",
        help="Where this disk goes, and as what; may be repeated.",
    ),
    click.option(
        "--format",
        type=OneOf([str(form) for form in DiskFormat]),
        help="What disks that move become; by default each keeps its own format.",
    ),
    click.option(
        "--provisioning",
        type=OneOf(["same", *(str(kind) for kind in Provisioning)]),
        default="same",
        show_default=True,
        help="The space that disks take once they have moved: that of their data, or all of their size.",
    ),
    click.option("--flatten", is_flag=True, help="Make one image of each disk and its backing images."),
)
_WAY = (
    click.option(
        "--via",
        type=OneOf([str(via) for via in Via]),
        default=str(Via.AUTO),
        show_default=True,
        help="The network that disks take.",
    ),
    click.option("--verify", is_flag=True, help="Compare both sides' disks as they were at the switchover."),
    click.option("--no-tls", is_flag=True, help="Send memory and disks unencrypted; needs --yes."),
    click.option("--yes", is_flag=True, help="Confirm what --no-tls means."),
    click.option(
        "--compress",
        type=OneOf([str(mode) for mode in Compress]),
        default=str(Compress.AUTO),
        show_default=True,
        help="Whether disk data is compressed for the network; auto: where that is seen to help.",
    ),
    click.option("--nic", "nics", multiple=True, metavar="NAME", help="Use only this migration NIC; may be repeated."),
    click.option(
        "--accept",
        multiple=True,
        type=OneOf([str(code) for code in Acceptable]),
        metavar="CODE",
        help="Go on although the check found this; may be repeated.",
    ),
)
_GUEST = (
    click.option(
        "--max-downtime",
        "max_downtime_ms",
        type=Milliseconds(),
        default="300ms",
        show_default=True,
        help="How long the VM may stand still for the last memory round.",
    ),
    click.option(
        "--policy",
        type=OneOf([str(policy) for policy in Policy]),
        default=str(Policy.BALANCED),
        show_default=True,
        help="What gives way for a guest that changes its memory faster than it can be sent.",
    ),
    click.option(
        "--max-slowdown",
        type=click.IntRange(0, MOST_SLOWDOWN),
        default=MOST_SLOWDOWN,
        show_default=True,
        metavar="PERCENT",
        help="How much of their time vCPUs may be held back so that memory converges; 0: never.",
    ),
    click.option(
        "--max-write-latency",
        "max_write_latency_ms",
        type=Milliseconds(),
        help="Slow the copy itself to keep the guest's writes from being held longer.",
    ),
)
_PACE = (
    click.option(
        "--bandwidth", metavar="RATE", default=NO_CAP, help="Cap for disks and memory together: 5Gbit, 200MiB."
    ),
    click.option(
        "--switchover",
        type=Moment(),
        default=AUTO,
        show_default=True,
        metavar="auto|manual|TIME",
        help="Copy now, and switch over at once, at `kvmove task switchover`, or at HH:MM or an RFC 3339 time.",
    ),
)
_WHEN = (
    click.option(
        "--priority",
        type=OneOf([str(priority) for priority in Priority]),
        default=str(Priority.NORMAL),
        show_default=True,
        help="Which moves go first when several wait for room.",
    ),
    click.option("--at", metavar="TIME", help="Begin not before it: HH:MM, or a full time with its zone."),
    click.option("--window", metavar="HH:MM-HH:MM", help="Begin only within it, on any day; then run to the end."),
)


def move_options(command: F) -> F:
    """Give the command every option of a move; it takes them as `**given` and hands them to `move_request`."""
    for option in reversed((*_DISKS, *_WAY, *_GUEST, *_PACE, *_WHEN)):
        command = option(command)
    return command


def move_request(vm: str, host: str | None, given: dict[str, Any], *, anywhere: bool = False) -> MoveRequest:
    """The request that the options `given` make. `anywhere`: without a host it is about all of them.

    :raise click.UsageError: it says neither a host nor a datastore, or --no-tls stands alone.
    :raise InvalidInput: a value that the model refuses.
    """
    if host is None and given["datastore"] is None and not given["disks"] and not anywhere:
        raise click.UsageError("name a HOST, or a datastore with --datastore or --disk")
    wanted = {"vm": vm, "host": host, **given}
    encrypt, confirmed = not wanted.pop("no_tls"), wanted.pop("yes")
    if not encrypt and not confirmed:
        raise click.UsageError("--no-tls sends memory and disks so that the network can read them; add --yes")
    wanted |= {"encrypt": encrypt, "disks": dict(given["disks"])}
    if given["provisioning"] == "same":
        wanted["provisioning"] = None
    return fit(wanted, MoveRequest, "the move")
