"""The rules of this house that no linter knows, as functions from a file's path and text to complaints. Pure.

Each takes the path below the repository's root and the source text, and returns one line per breach.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePath

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
VAGUE_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "base", "misc", "tools"})
_QMP_COMMANDS = """
    announce-self block-export-add block-export-del block-job-cancel block-job-complete block_resize
    blockdev-add blockdev-backup blockdev-del blockdev-mirror blockdev-reopen device_add device_del exec-oob
    human-monitor-command job-cancel job-complete job-dismiss migrate-continue migrate-incoming
    migrate-set-capabilities migrate-set-parameters migrate_cancel nbd-server-start nbd-server-stop object-add
    qmp_capabilities query-block query-block-exports query-block-jobs query-jobs query-migrate query-named-block-nodes
    query-status query-machines query-cpu-definitions query-cpu-model-expansion system_powerdown yank
    calc-dirty-rate query-dirty-rate query-blockstats
"""
QMP_COMMANDS = frozenset(_QMP_COMMANDS.split())
SQL = re.compile(
    r"\s*(SELECT\s.+\sFROM\s|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|CREATE\s+(TABLE|INDEX)|PRAGMA\s)",
    re.DOTALL,
)
SQL_FILES = frozenset(
    {"src/kvmove/registry/sqlite.py", "src/kvmove/manager/task_store.py", "src/kvmove/manager/access_store.py"}
)
SOCKET_PACKAGES = frozenset({"transport", "nbd", "manager", "lab"})
"""Who may make sockets: the data path's two packages, the manager for its listeners, the lab for the test bench."""
SOCKET_FILES = frozenset({"src/kvmove/memory/channel_relay.py"})
"""The Unix sockets of QEMU's own migration, as nbd/ has those of its mirror."""
SOCKET_MAKERS = frozenset({"socket", "socketpair", "create_connection", "create_server", "fromfd"})
MARKERS = re.compile(
    r"#\s*" + r"noqa|#\s*type:\s*" + r"ignore|\bTO" + r"DO\b|\bFIX" + r"ME\b|\bX" + r"XX\b|NotImplemented" + r"Error"
    r"|pytest\.(mark\.)?" + r"(skip|xfail)"
)


def file_length(path: PurePath, source: str) -> list[str]:
    """A file has at most 500 lines."""
    lines = source.count("\n")
    return [f"{path}: {lines} lines; at most {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []


def function_length(path: PurePath, source: str) -> list[str]:
    """A function has at most 60 lines, its docstring and decorators not counted."""
    return [
        f"{path}:{function.lineno}: {function.name} has {_length(function)} lines; at most {MAX_FUNCTION_LINES}"
        for function in _functions(source)
        if _length(function) > MAX_FUNCTION_LINES
    ]


def parameter_count(path: PurePath, source: str) -> list[str]:
    """A function has at most 6 parameters; those of the command line are exempt: an option is a parameter."""
    if _package(path) == "cli":
        return []
    return [
        f"{path}:{function.lineno}: {function.name} has {_parameters(function)} parameters; at most {MAX_PARAMETERS}"
        for function in _functions(source)
        if _parameters(function) > MAX_PARAMETERS
    ]


def vague_name(path: PurePath, source: str) -> list[str]:
    """No module or package is called utils and the like."""
    return [f"{path}: {part!r} says nothing" for part in (*path.parts[:-1], path.stem) if part in VAGUE_NAMES]


def qmp_in_its_place(path: PurePath, source: str) -> list[str]:
    """QMP command names appear in qemu/ alone."""
    if path.parts[0] != "src" or _package(path) == "qemu":
        return []
    return [
        f"{path}:{line}: the QMP command {text!r} outside of qemu/"
        for line, text in _strings(source)
        if text in QMP_COMMANDS
    ]


def sql_in_its_place(path: PurePath, source: str) -> list[str]:
    """SQL appears in three files alone: the registry's, the task store and the access store."""
    if path.parts[0] != "src" or str(path) in SQL_FILES:
        return []
    found = [f"{path}:{line}: SQL outside of its files" for line, text in _strings(source) if SQL.match(text)]
    return found + [
        f"{path}:{line}: sqlite3 outside of SQL's files" for line, name in _imports(source) if name == "sqlite3"
    ]


def sockets_in_their_place(path: PurePath, source: str) -> list[str]:
    """Data sockets are made in transport/ and nbd/ alone."""
    if path.parts[0] != "src" or _package(path) in SOCKET_PACKAGES or str(path) in SOCKET_FILES:
        return []
    return [
        f"{path}:{node.lineno}: a socket is made outside of transport/ and nbd/"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _called(node) in {f"socket.{maker}" for maker in SOCKET_MAKERS}
    ]


def markers(path: PurePath, source: str) -> list[str]:
    """No suppressed finding, no unfinished spot, no test that is not run."""
    lines = source.splitlines()
    return [f"{path}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if MARKERS.search(line)]


def imports_at_the_top(path: PurePath, source: str) -> list[str]:
    """No import inside a function."""
    return [
        f"{path}:{node.lineno}: an import inside {function.name}"
        for function in _functions(source)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


RULES = (
    file_length, function_length, parameter_count, vague_name, qmp_in_its_place, sql_in_its_place,
    sockets_in_their_place, markers, imports_at_the_top,
)  # fmt: skip


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(source: str) -> Iterator[Function]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _length(function: Function) -> int:
    body = function.body
    docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    first = body[0].end_lineno if docstring else function.lineno - 1
    return (function.end_lineno or 0) - (first or 0)


def _parameters(function: Function) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls"}])


def _package(path: PurePath) -> str:
    """The package below `kvmove` that a source file belongs to."""
    return path.parts[2] if len(path.parts) > 3 else ""


def _strings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _imports(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return f"{function.value.id}.{function.attr}"
    return ""
