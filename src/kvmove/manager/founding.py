"""The beginning of a cluster, on the manager's machine: authority, the manager's certificate, the first admin.

Invariant: it is done once. All that could be in its way is looked at before anything is written; where a cluster is
already, nothing changes. It needs no manager and starts none.
"""

import json
from datetime import timedelta
from pathlib import Path

from kvmove.errors import Busy, InvalidInput
from kvmove.manager.access_store import FILE, AccessStore, digest
from kvmove.manager.config import ManagerConfig, load_config
from kvmove.manager.listeners import hold
from kvmove.manager.users import new_user, without_token
from kvmove.model.access import NewUser, UserRole, UserToken
from kvmove.model.toml_file import fit, parse_toml
from kvmove.pki.authority import CA_CERT, CA_KEY, CERT, KEY, create_authority, issue
from kvmove.pki.identity import Identity, Role


def found(config_file: Path, listen: str | None, admin: str) -> tuple[ManagerConfig, UserToken]:
    """Make a cluster; its configuration, and the first admin with the token, which is told here alone.

    :param config_file: manager.toml; if it is not there it is written, with `listen` and defaults.
    :raise Busy: there is a cluster already, or part of one; or a manager runs here.
    :raise InvalidInput: the configuration, the address or the admin's name is not valid.
    :raise OSError: a file could not be written; what was written before it is to be removed by hand.
    """
    config, text = _configuration(config_file, listen)
    first = new_user(NewUser(name=admin, role=UserRole.ADMIN))
    for file in (*(config.authority / name for name in (CA_CERT, CA_KEY)), *(config.pki / it for it in (CERT, KEY))):
        if file.exists():
            raise Busy(f"there is a cluster already: {file}", hint="to begin anew, remove its folder by hand")
    with hold(config.state):
        store = AccessStore(config.state / FILE)
        try:
            if any(user.name == admin for _, user in store.users()):
                raise Busy(
                    f"there is a user {admin} already in {config.state / FILE}", hint="name another with --admin"
                )
            create_authority(config.authority)
            manager = Identity(Role.MANAGER, "manager")
            issue(config.authority, manager, config.pki, valid_for=timedelta(days=config.certificate_days))
            if text:
                config_file.parent.mkdir(parents=True, exist_ok=True)
                config_file.write_text(text)
            store.save_user(without_token(first), digest(first.token))
        finally:
            store.close()
    return config, first


def _configuration(file: Path, listen: str | None) -> tuple[ManagerConfig, str]:
    """The configuration, and what is to be written as its file; empty when there is one."""
    if file.exists():
        config = load_config(file)
        if listen is not None and listen != config.listen:
            raise InvalidInput(f"{file} says listen = {config.listen!r}", hint="leave --listen out, or change the file")
        return config, ""
    if listen is None:
        raise InvalidInput(
            f"there is no {file} yet", hint="say where hosts reach this machine, for example --listen 10.0.0.1:7440"
        )
    text = f"listen = {json.dumps(listen)}\n"
    return fit(parse_toml(text, "--listen"), ManagerConfig, "--listen"), text
