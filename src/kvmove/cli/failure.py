"""Tells a person, or a program, what went wrong: one block on stderr, never a stack trace.

    Error: The check before the start failed
      why:   h2: datastore fast has 1.2 GiB free, the disks need 4.0 GiB
      step:  preparing
      VM:    running on h1
      hint:  free 2.8 GiB on fast, or name another with --datastore

Invariant: with `-o json` or `ndjson` stderr gets exactly one line for the failure, a problem+json object.
"""

import json
import textwrap

from rich.text import Text

from kvmove.cli.findings import findings_of, render_findings
from kvmove.cli.options import Options
from kvmove.cli.output import Printer, printable
from kvmove.errors import CheckFailed, KvmoveError


def show_failure(options: Options, error: KvmoveError, what: str = "") -> None:
    """Put `error` on stderr in the form that the options ask for. `what` failed, if there is a word for it."""
    printer = Printer(options)
    if options.machine_readable:
        printer.err.file.write(json.dumps(error.problem(), ensure_ascii=False) + "\n")
        return
    printer.err.print(failure_block(error, what), soft_wrap=True)


def failure_block(error: KvmoveError, what: str = "") -> Text:
    """What failed, why, at which step, where the VM is now, and what to do; what is not known is left out."""
    block = Text()
    block.append("Error: ", "bold red").append(what or error.title, "bold")
    findings = findings_of(error) if isinstance(error, CheckFailed) else ()
    why, hint = (error.detail, error.hint) if not findings else ("", "")
    for name, said in (("why", why), ("step", error.step), ("VM", error.vm_state), ("hint", hint)):
        if said:
            block.append(f"\n  {name + ':':<7}", "bold").append(_lines(error, said))
    for finding in render_findings(findings):
        block.append("\n").append_text(finding)
    return block


def _lines(error: KvmoveError, said: str) -> str:
    """A check names all its blockers, and all their remedies: a line for each."""
    text = said.replace("; ", "\n") if isinstance(error, CheckFailed) else said
    return textwrap.indent(printable(text), " " * 9).lstrip()
