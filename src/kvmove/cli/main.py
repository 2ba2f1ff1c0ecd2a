"""The command line: `kvmove`, its global options, its commands, and how every failure becomes an exit code.

0 done · 1 failed, the VM runs on at the source · 2 usage · 3 check failed · 4 not found · 5 busy · 6 cancelled ·
7 did not converge · 8 not allowed · 9 no answer · 20 needs attention · 130 left by Ctrl-C
"""

import sys
from collections.abc import Sequence

import click

import kvmove
from kvmove.cli.lazy import Entry, LazyGroup, load
from kvmove.cli.options import Options, global_options
from kvmove.errors import InvalidInput, KvmoveError

DETACHED = 130

COMMANDS = {
    "move": Entry("kvmove.cli.move:move", "Move a VM to another host, memory and disks together, or its disks alone."),
    "check": Entry("kvmove.cli.check:check", "Tell what a move would do, what blocks it, and where a VM could go."),
    "vm": Entry("kvmove.cli.vm:vm", "VMs: list, show, define, start, stop, delete."),
    "host": Entry("kvmove.cli.host:host", "Hosts: list, show, add, remove, maintenance, the network between two."),
    "datastore": Entry("kvmove.cli.datastore:datastore", "Datastores: list, create."),
    "task": Entry("kvmove.cli.task:task", "Tasks: list, show, watch, cancel, pause, resume, switchover, set."),
    "balance": Entry("kvmove.cli.balance:balance", "Balance load: status, plan, apply, rules, history."),
    "events": Entry("kvmove.cli.events:events", "What happened, and what happens."),
    "top": Entry("kvmove.cli.top:top", "Hosts and moves, live."),
    "doctor": Entry("kvmove.cli.doctor:doctor", "Look for what is wrong, here and in the cluster."),
    "support-bundle": Entry("kvmove.cli.support_bundle:support_bundle", "Collect what a helper needs, no secrets."),
    "config": Entry("kvmove.cli.config:config", "Your configuration: which managers, and which one is asked."),
    "api": Entry("kvmove.cli.api:api", "Send any request to the manager."),
    "completion": Entry("kvmove.cli.completion:completion", "Complete commands and names in your shell."),
    "user": Entry("kvmove.cli.user:user", "Users of the API: add, list, rotate, remove."),
    "cluster": Entry("kvmove.cli.cluster:cluster", "The cluster: init, certificates, revoke, registry-copy."),
    "pki": Entry("kvmove.cli.pki:pki", "Certificates by hand: make the authority, issue, revoke."),
    "lab": Entry("kvmove.cli.lab:lab", "Hosts on this one machine, to try things out."),
    "agent": Entry("kvmove.cli.agent:agent", "Run the daemon of a host; let a host join."),
    "manager": Entry("kvmove.cli.manager:manager", "Run the manager."),
    "version": Entry("kvmove.cli.version:version", "Tell the version."),
}


class _Kvmove(LazyGroup):
    entries = COMMANDS


@click.command(
    cls=_Kvmove,
    params=global_options(on_command=False),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(kvmove.__version__, message="kvmove %(version)s")
def cli() -> None:
    """Moves running QEMU/KVM virtual machines between hosts that share nothing but a network."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` (by default the program's) name, and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; what it has to say is on stdout and stderr."""
    options = Options()
    try:
        words = list(arguments) if arguments is not None else None
        result = cli.main(words, prog_name="kvmove", standalone_mode=False, obj=options)
    except KvmoveError as error:
        return _fail(options, error)
    except click.ClickException as error:
        return _usage(options, error)
    except (click.Abort, KeyboardInterrupt):
        return DETACHED
    except Exception as error:
        if options.verbose:
            raise
        said = f"{type(error).__name__}: {error}"
        return _fail(options, KvmoveError(said, hint="this is a fault of kvmove; -v shows where"))
    return result if isinstance(result, int) else 0


def _usage(options: Options, error: click.ClickException) -> int:
    if options.machine_readable:
        return _fail(options, InvalidInput(error.format_message()))
    error.show()
    return InvalidInput.exit_code


def _fail(options: Options, error: KvmoveError) -> int:
    """Tell the failure and give its exit code. What that needs is loaded now, to keep `kvmove --help` quick."""
    load("kvmove.cli.failure:show_failure")(options, error)
    return error.exit_code
