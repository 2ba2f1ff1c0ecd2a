"""A new host joins: its key is made here, the manager signs for it, and the agent's folder is filled.

Invariant: nothing secret is sent before the authority's certificate has the fingerprint that the token tells, and from
then on only over TLS to a manager of that authority. The key never leaves this machine. What is here already is not
overwritten; all that could be in the way is looked at before the token is used.
"""

import json
from pathlib import Path

from pydantic import TypeAdapter

from kvmove.agent.config import AgentConfig, load_config
from kvmove.client.http import HttpClient
from kvmove.client.renewal import MANAGER, PREFIX
from kvmove.errors import Busy, InvalidInput, NotAllowed
from kvmove.model.access import AuthorityCertificate, Certified, JoinRequest
from kvmove.model.join_token import JoinToken
from kvmove.model.toml_file import fit, parse_toml
from kvmove.pki.authority import CERT, KEY
from kvmove.pki.contexts import unverified_context
from kvmove.pki.renewal import fingerprint, install_all, new_request

_AUTHORITY = TypeAdapter(AuthorityCertificate)
_CERTIFIED = TypeAdapter(Certified)


async def join(token: JoinToken, config_file: Path) -> AgentConfig:
    """Make this machine the host that `token` invites; its configuration.

    :param config_file: agent.toml; if it is not there a minimal one is written.
    :raise Busy: there is a certificate here already.
    :raise InvalidInput: agent.toml is not valid, or is another host's.
    :raise NotAllowed: what answers is not the manager of the token, or it does not take the token.
    :raise Unreachable: no answer; if it was lost after the token was used, another token is needed.
    """
    config, text = _configuration(token, config_file)
    _refuse_second(config.pki)
    key, request = new_request()
    authority = await _authority(token)
    async with HttpClient.over_trust(token.manager, authority, MANAGER) as manager:
        body = JoinRequest(secret=token.secret, request=request)
        made = await manager.ask(_CERTIFIED, "POST", f"{PREFIX}/join", body)
    install_all(config.pki, key, made.certificate, authority)
    if text:
        _write(config_file, text)
    return config


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _refuse_second(pki: Path) -> None:
    for file in (pki / CERT, pki / KEY):
        if file.exists():
            raise Busy(f"this host has a certificate already: {file}", hint=f"to join anew, remove {pki}")


async def _authority(token: JoinToken) -> str:
    """The authority's certificate, known by its fingerprint: the one thing that is asked without trust."""
    context = unverified_context()
    async with HttpClient(
        token.manager, f"the manager at {token.manager}", tls=lambda: context, expected=MANAGER, socket=None
    ) as stranger:
        told = await stranger.ask(_AUTHORITY, "GET", f"{PREFIX}/authority")
    if fingerprint(told.authority) != token.authority:
        raise NotAllowed(
            f"what answers at {token.manager} is not the manager that made the token: its authority is another",
            hint="nothing was sent to it; is somebody in between, or was the cluster made anew?",
        )
    return told.authority


def _configuration(token: JoinToken, file: Path) -> tuple[AgentConfig, str]:
    """The configuration, and what is to be written as its file; empty when there is one."""
    if not file.exists():
        lines = {"name": token.name, "control": token.control, "manager": token.manager}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        return fit(parse_toml(text, "the token"), AgentConfig, "the token"), text
    config = load_config(file)
    for what, ours, said in (("name", config.name, token.name), ("control", config.control, token.control)):
        if ours != said:
            raise InvalidInput(f"{file} says {what} = {ours!r}, the token is for {said!r}", hint="mend one of them")
    return config, ""
