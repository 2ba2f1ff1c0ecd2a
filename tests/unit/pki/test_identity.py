"""What a certificate's subject says, and when it is not believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmove.errors import InvalidInput, NotAllowed
from kvmove.pki.identity import Identity, Role, check_name, peer_identity, require


def certificate(units: list[str], names: list[str], dns: list[str]) -> dict[str, object]:
    subject = tuple([(("organizationalUnitName", unit),) for unit in units] + [(("commonName", n),) for n in names])
    return {"subject": subject, "subjectAltName": tuple(("DNS", name) for name in dns)}


def test_the_dns_name_tells_role_and_name() -> None:
    assert Identity(Role.AGENT, "h1").dns_name == "h1.agent.kvmove"
    assert Identity(Role.OPERATOR, "ada").dns_name == "ada.operator.kvmove"
    assert Identity(Role.MANAGER, "anything").dns_name == "manager.kvmove"


def test_a_certificate_of_ours_gives_its_identity() -> None:
    assert peer_identity(certificate(["agent"], ["h1"], ["h1.agent.kvmove"])) == Identity(Role.AGENT, "h1")


@pytest.mark.parametrize(
    "peercert",
    [
        None,
        {},
        certificate([], ["h1"], ["h1.agent.kvmove"]),
        certificate(["agent"], [], ["h1.agent.kvmove"]),
        certificate(["root"], ["h1"], ["h1.root.kvmove"]),
        certificate(["agent"], ["h1"], ["h2.agent.kvmove"]),
        certificate(["manager"], ["h1"], ["h1.agent.kvmove"]),
        certificate(["agent", "manager"], ["h1"], ["h1.agent.kvmove", "manager.kvmove"]),
        certificate(["agent"], ["h1", "h2"], ["h1.agent.kvmove", "h2.agent.kvmove"]),
    ],
)
def test_a_certificate_that_is_missing_or_says_two_things_is_refused(peercert: dict[str, object] | None) -> None:
    with pytest.raises(NotAllowed):
        peer_identity(peercert)


def test_a_role_that_was_not_asked_for_is_refused() -> None:
    agent = Identity(Role.AGENT, "h1")
    assert require(agent, Role.MANAGER, Role.AGENT) is agent
    with pytest.raises(NotAllowed):
        require(agent, Role.MANAGER, Role.OPERATOR)


@pytest.mark.parametrize("name", ["", "H1", "a..b", ".a", "a.", "a/b", "a b", "*", "*.agent", "a" * 64, "ä", "a\n"])
def test_a_name_that_tls_would_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(Identity(Role.AGENT, name))


@given(st.text(max_size=70))
def test_a_name_that_passes_survives_the_way_into_tls(name: str) -> None:
    identity = Identity(Role.AGENT, name)
    try:
        check_name(identity)
    except InvalidInput:
        return
    assert identity.dns_name.encode("idna").decode() == identity.dns_name.lower() == identity.dns_name
