"""Takes secrets out of text before it leaves this machine. Pure.

Invariant: what looks like a secret goes, even where it is none: a digest too many is missed by nobody. It is the second
line of defence; the first is that nothing which holds a secret is read at all (see `support_bundle`).
"""

import re

REMOVED = "[removed]"

_RULES = (
    # a private key, whole or cut off; in JSON its line ends are written out
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    # Authorization: Bearer …, also in a sentence
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {REMOVED}"),
    # name = "value", "name": "value", NAME=value
    (
        re.compile(
            r"([\"']?\b[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|ticket|api[_-]?key|private[_-]?key|"
            r"credential|authorization|cookie)s?[\"']?\s*[:=]\s*)"
            r"(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;}\"']+)",
            re.IGNORECASE,
        ),
        rf'\1"{REMOVED}"',
    ),
    # https://user:password@host
    (re.compile(r"(\w+://)[^/\s:@\"']+:[^/\s@\"']+@"), rf"\1{REMOVED}@"),
    # off = ["ipmitool", "-P", "password"]: the words of a power command but for its program; whatever is odd goes too
    (
        re.compile(
            r"(\b(?:off|on)[\"']?\s*[:=]\s*\[\s*(?:\"[^\"\\\n]+\"(?!\")|'[^'\n]+'(?!'))?)"
            r"(?>\"{3}.*?\"{3}|'{3}.*?'{3}|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|\#[^\n]*|[\"'][^\n]*|[^\]\"'\#])*+(?:\]|\Z)",
            re.DOTALL,
        ),
        rf'\1, "{REMOVED}"]',
    ),
    # words that kvmove itself gives out: an API token, a join token
    (re.compile(r"\bkvmove[-_](?=[a-z_-]*[A-Z0-9])[\w-]{32,}"), REMOVED),
    # tickets of moves and the like: long runs of hexadecimal digits
    (re.compile(r"\b[0-9a-fA-F]{48,}\b"), REMOVED),
)


def redact(text: str) -> str:
    """`text` without what looks like a secret."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text
