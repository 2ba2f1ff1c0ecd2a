"""The parts of the manager that say who may come in, in one bundle: users and their sessions, hosts that
join, certificates."""

from dataclasses import dataclass, field

from kvmove.manager.certificates import Certificates
from kvmove.manager.host_book import HostBook
from kvmove.manager.sessions import Sessions
from kvmove.manager.users import Users, WrongSecrets


@dataclass(frozen=True)
class Access:
    """What the gate and the routes of access speak to."""

    users: Users
    hosts: HostBook
    certificates: Certificates
    sessions: Sessions
    wrong: WrongSecrets = field(default_factory=WrongSecrets)
