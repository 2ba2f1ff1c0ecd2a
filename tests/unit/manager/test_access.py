"""Users with tokens, hosts that join, certificates that are renewed and revoked: over the manager's real doors."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kvmove.agent.joining import join
from kvmove.client.manager import ManagerClient, TokenUser
from kvmove.client.renewal import Renewal
from kvmove.errors import Busy, CheckFailed, InvalidInput, KvmoveError, NotAllowed, NotFound
from kvmove.manager.access_store import AccessStore, digest
from kvmove.manager.config import ManagerConfig
from kvmove.manager.founding import found
from kvmove.manager.users import Users, WrongSecrets
from kvmove.model.access import NewHost, NewUser, RevokeRequest, UserRole
from kvmove.model.join_token import JoinToken
from kvmove.model.move import MoveRequest
from kvmove.pki.authority import create_authority, issue, issued
from kvmove.pki.identity import Identity, Role
from kvmove.pki.renewal import is_due, new_request, renewal_due
from kvmove.pki.revocation import list_number, revoke, take_list
from tests.support import samples
from tests.unit.manager.conftest import Served
from tests.unit.manager.test_rest import raw

H3 = NewHost(name="h3", control="10.0.0.3:7441")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def with_token(served: Served, token: str) -> ManagerClient:
    return ManagerClient(served.url, user=TokenUser(token, served.authority()))


async def invited(served: Served, new: NewHost = H3) -> JoinToken:
    async with served.client() as root:
        return JoinToken.parse((await root.access.add_host(new)).token)


async def joined(served: Served, tmp_path: Path) -> Path:
    """The folder of h3's certificate, which has joined."""
    token = await invited(served)
    config = tmp_path / "h3" / "agent.toml"
    config.parent.mkdir()
    lines = {
        "name": token.name,
        "control": token.control,
        "manager": token.manager,
        "pki": str(tmp_path / "h3" / "pki"),
    }
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    return (await join(token, config)).pki


# Users.


async def test_a_user_comes_with_a_token_until_it_is_replaced_or_taken_away(served: Served) -> None:
    async with served.client() as root:
        first = await root.access.add_user(NewUser(name="vic", role=UserRole.VIEWER))
        async with with_token(served, first.token) as vic:
            assert await vic.vms() == [samples.vm()]
            with pytest.raises(NotAllowed, match="viewer vic may not use POST"):
                await vic.start_vm("web1")
        second = await root.access.rotate("vic")
        async with with_token(served, first.token) as old, with_token(served, second.token) as vic:
            with pytest.raises(NotAllowed, match="the token is not known"):
                await old.vms()
            assert await vic.vms() == [samples.vm()]
            await root.access.remove_user("vic")
            with pytest.raises(NotAllowed, match="the token is not known"):
                await vic.vms()
        assert await root.access.users() == []


async def test_what_a_user_does_is_done_in_its_name(served: Served) -> None:
    """`peer_of` in a route sees the user, also where the connection has a certificate of its own."""
    made = await served.new_user(Role.VIEWER)
    assert await served.status("POST", "/api/v1/moves", "ann", token=made.token) == 403


async def test_no_token_is_in_the_store_in_a_log_or_in_an_answer(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    made = await served.new_user(Role.ADMIN)
    secret = made.token.removeprefix("kvmove_")
    async with with_token(served, made.token) as admin:
        listed = await admin.access.users()
    wrong = "kvmove_" + "x" * 43
    async with with_token(served, wrong) as stranger:
        with pytest.raises(NotAllowed) as caught:
            await stranger.vms()
    assert secret not in str(listed)
    assert "xxxx" not in json.dumps(caught.value.problem())
    assert secret not in caplog.text and "xxxx" not in caplog.text
    assert all(secret.encode() not in file.read_bytes() for file in served.folder.glob("access.db*"))
    assert stat.S_IMODE((served.folder / "access.db").stat().st_mode) == 0o600


async def test_users_survive_a_restart(tmp_path: Path) -> None:
    store = AccessStore(tmp_path / "access.db")
    made = await Users(store).add(NewUser(name="ann", role=UserRole.OPERATOR))
    store.close()
    again = AccessStore(tmp_path / "access.db")
    assert Users(again).identify(made.token) == Identity(Role.OPERATOR, "ann")
    again.close()


async def test_users_that_cannot_be_are_refused(served: Served) -> None:
    async with served.client() as root:
        await root.access.add_user(NewUser(name="ann", role=UserRole.VIEWER))
        with pytest.raises(Busy, match="there is a user ann already"):
            await root.access.add_user(NewUser(name="ann", role=UserRole.ADMIN))
        with pytest.raises(InvalidInput, match="cannot be the name"):
            await root.access.add_user(NewUser(name="Ann", role=UserRole.ADMIN))
        with pytest.raises(NotFound, match="there is no user 'ana'"):
            await root.access.rotate("ana")


async def test_who_comes_with_wrong_tokens_too_often_waits(served: Served) -> None:
    made = await served.new_user(Role.VIEWER)
    for _ in range(10):
        assert await served.status("GET", "/api/v1/vms", None, token="wrong") == 401
    assert await served.status("GET", "/api/v1/vms", None, token="wrong") == 429
    assert await served.status("GET", "/api/v1/vms", None, token=made.token) == 200, "others share the address"
    assert await served.status("GET", "/api/v1/vms", None, token="wrong") == 429
    assert await served.status("GET", "/api/v1/vms", "ann") == 200, "a certificate is no token"
    assert (await raw(served, "GET", "/api/v1/vms"))[0] == 200


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 200)), max_size=60))
def test_wrong_tokens_are_counted_as_a_plain_list_would(seen: list[tuple[str, float]]) -> None:
    wrong, told = WrongSecrets(limit=3, window=60.0, addresses=3), list[tuple[str, float]]()
    for address, now in sorted(seen, key=lambda it: it[1]):
        recent = [time for who, time in told if who == address][-3:]
        expected = max(0.0, recent[0] + 60.0 - now) if len(recent) == 3 else 0.0
        assert wrong.wait(address, now) == expected
        wrong.note(address, now)
        told.append((address, now))


def test_addresses_that_came_with_wrong_tokens_do_not_fill_the_memory() -> None:
    wrong = WrongSecrets(limit=1, window=60.0, addresses=2)
    for address in "abc":
        wrong.note(address, 0.0)
    assert [wrong.wait(address, 1.0) for address in "abc"] == [0.0, 59.0, 59.0]


async def test_a_stream_ends_when_its_token_is_taken_away(served: Served) -> None:
    made = await served.new_user(Role.VIEWER)
    async with served.client() as root:
        task = await root.start_move(MoveRequest(vm="web1", host="h2"))
        async with with_token(served, made.token) as vic:
            states = vic.watch_task(task.id)
            await anext(states)
            await root.access.remove_user("viewer-user")
            served.h1.tell(samples.status(percent=55.0).model_copy(update={"move_id": task.id}))
            assert [state async for state in states] == []
        served.h1.tell(samples.completed().model_copy(update={"move_id": task.id}))


# Hosts.


async def test_a_host_joins_once_and_is_known_without_a_restart(served: Served, tmp_path: Path) -> None:
    pki = await joined(served, tmp_path)
    async with served.client() as root:
        assert [host.name for host in await root.hosts()] == ["h1", "h2", "h3"]
        with pytest.raises(Busy, match="h3 has joined already"):
            await root.access.add_host(H3)
    assert sorted(file.name for file in pki.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in pki.iterdir()} == {0o600}
    store = AccessStore(served.folder / "access.db")
    assert [host.name for host in store.hosts()] == ["h3"]
    store.close()


async def test_an_invitation_is_good_once(served: Served, tmp_path: Path) -> None:
    token = await invited(served)
    config, pki = tmp_path / "agent.toml", tmp_path / "h3"
    config.write_text(f'name = "h3"\ncontrol = "{H3.control}"\nmanager = "{served.url}"\npki = "{pki}"\n')
    again = await invited(served)
    with pytest.raises(NotAllowed, match="another was made after it"):
        await join(token, config)
    await join(again, config)
    with pytest.raises(Busy, match="has a certificate already"):
        await join(again, config)
    for file in pki.iterdir():
        file.unlink()
    with pytest.raises(NotAllowed, match="it was used"):
        await join(again, config)
    assert list(pki.iterdir()) == []


async def test_an_invitation_ends(served: Served) -> None:
    store = AccessStore(served.folder / "access.db")
    store.invite(samples.H1, digest("s"), expires=100.0)
    assert store.use_invitation(digest("s"), now=100.0) is None
    assert store.use_invitation(digest("s"), now=99.0) == samples.H1
    assert store.use_invitation(digest("s"), now=99.0) is None
    store.close()


async def test_nothing_secret_is_sent_to_a_manager_of_another_authority(served: Served, tmp_path: Path) -> None:
    token = await invited(served)
    fake = token.model_copy(update={"authority": "0" * 64})
    with pytest.raises(NotAllowed, match="is not the manager that made the token"):
        await join(fake, tmp_path / "agent.toml")
    assert not (tmp_path / "agent.toml").exists()
    store = AccessStore(served.folder / "access.db")
    assert store.is_invited("h3"), "the invitation was not used"
    store.close()


async def test_a_broken_request_does_not_use_the_invitation_up(served: Served) -> None:
    token = await invited(served)
    status, _, problem = await raw(served, "POST", "/pki/v1/join", json={"secret": token.secret, "request": "x"})
    assert (status, problem["code"]) == (422, "INVALID_INPUT")
    key, request = new_request()
    assert (await raw(served, "POST", "/pki/v1/join", json={"secret": token.secret, "request": request}))[0] == 200
    assert b"PRIVATE" in key


async def test_guessing_invitations_is_slowed(served: Served) -> None:
    body = {"secret": "x", "request": new_request()[1]}
    answers = [(await raw(served, "POST", "/pki/v1/join", json=body))[0] for _ in range(11)]
    assert answers == [403] * 10 + [429]


async def test_a_host_of_the_configuration_is_neither_added_nor_removed(served: Served) -> None:
    async with served.client() as root:
        with pytest.raises(Busy, match="listed in manager"):
            await root.access.add_host(NewHost(name="h1", control="10.0.0.1:7441"))
        with pytest.raises(CheckFailed, match="listed in manager"):
            await root.access.remove_host("h1")
        with pytest.raises(NotFound, match="there is no host"):
            await root.access.remove_host("h9")
        with pytest.raises(InvalidInput, match="no address at which"):
            await root.access.add_host(NewHost(name="h4", control="10.0.0.4:1", manager="0.0.0.0:7440"))


async def test_a_host_with_a_vm_is_not_removed_and_one_without_is_put_out(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki = await joined(served, tmp_path)
    forgotten = list[str]()

    async def forget(host: str) -> None:
        forgotten.append(host)

    monkeypatch.setattr(served.placement.maintenance, "forget", forget)
    async with served.client() as root:
        await served.registry.claim(samples.DB1, "h3")
        with pytest.raises(CheckFailed, match="h3 has VMs"):
            await root.access.remove_host("h3")
        record = await served.registry.get(samples.DB1)
        assert record is not None
        await served.registry.release(record)
        assert (await root.access.remove_host("h3")).revoked == 1
        assert forgotten == ["h3"], "one that comes by its name later takes VMs"
        assert [host.name for host in await root.hosts()] == ["h1", "h2"]
    renewal = Renewal(pki, served.url)
    with pytest.raises(KvmoveError):
        await renewal.fetch_list()
    await renewal.close()


@pytest.mark.parametrize("word", ["", "kvmove-join-", "kvmove-join-e30", "nonsense", "kvmove-join-%%%"])
def test_what_is_no_token_is_refused_without_repeating_it(word: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        JoinToken.parse(word)
    assert word not in caught.value.detail or not word


# Certificates.


async def test_a_revoked_certificate_is_refused_at_once_on_an_open_connection_and_on_new_ones(served: Served) -> None:
    async with served.client("ann") as ann, served.client("ada") as ada, served.client("ann") as later:
        assert await ann.vms()
        revoked = await ada.access.revoke(RevokeRequest(name="ann"))
        assert [(it.role, it.name, it.revoked) for it in revoked] == [("operator", "ann", True)]
        with pytest.raises(NotAllowed):
            await ann.vms()
        with pytest.raises(KvmoveError):
            await later.vms()
        assert await ada.vms()


async def test_a_command_beside_the_manager_revokes_too(served: Served) -> None:
    revoke(served.pki / "authority", Identity(Role.OPERATOR, "ann"))
    served.certificates.refresh()
    async with served.client("ann") as ann:
        with pytest.raises(KvmoveError):
            await ann.vms()


async def test_the_manager_does_not_put_itself_out(served: Served) -> None:
    async with served.client() as root:
        with pytest.raises(CheckFailed, match="does not revoke its own"):
            await root.access.revoke(RevokeRequest(name="manager"))


async def test_a_party_renews_when_two_thirds_are_over_and_shows_the_new_one(served: Served) -> None:
    def serial() -> int:
        return x509.load_pem_x509_certificate((served.pki / "h9" / "cert.pem").read_bytes()).serial_number

    issued_at = datetime.now(UTC) - timedelta(days=61)
    issue(served.pki / "authority", Identity(Role.AGENT, "h9"), served.pki / "h9", now=issued_at)
    before, key = serial(), (served.pki / "h9" / "key.pem").read_bytes()
    renewal = Renewal(served.pki / "h9", served.url)
    await renewal.renew_if_due(issued_at + timedelta(days=59))
    assert serial() == before, "it is not time yet"
    await renewal.renew_if_due()
    assert serial() != before
    assert (served.pki / "h9" / "key.pem").read_bytes() == key
    assert not is_due(served.pki / "h9")
    revoke(served.pki / "authority", Identity(Role.OPERATOR, "ann"))
    served.certificates.refresh()
    await renewal.fetch_list()
    assert list_number(served.pki / "h9") == 1
    await renewal.close()


async def test_the_manager_shows_a_renewed_certificate_without_a_restart(served: Served) -> None:
    """And what is half written, or of another authority, is not taken up."""
    issue(served.pki / "authority", Identity(Role.MANAGER, "manager"), served.pki / "manager")
    new = x509.load_pem_x509_certificate((served.pki / "manager" / "cert.pem").read_bytes())
    shown = await served.shown_certificate()
    assert shown.serial_number == new.serial_number
    (served.pki / "manager" / "cert.pem").write_text("half of one")
    assert (await served.shown_certificate()).serial_number == new.serial_number


def test_renewal_is_due_after_two_thirds() -> None:
    assert renewal_due(NOON, NOON + timedelta(days=90)) == NOON + timedelta(days=60)


async def test_a_list_goes_only_forward_and_comes_only_from_our_authority(served: Served, tmp_path: Path) -> None:
    authority, party = served.pki / "authority", served.pki / "h1"
    revoke(authority, Identity(Role.OPERATOR, "ann"))
    first = (authority / "crl.pem").read_bytes()
    revoke(authority, Identity(Role.VIEWER, "vic"))
    assert take_list(party, (authority / "crl.pem").read_bytes())
    assert not take_list(party, first)
    assert list_number(party) == 2
    create_authority(tmp_path / "other")
    issue(tmp_path / "other", Identity(Role.AGENT, "x"), tmp_path / "x")
    for _ in range(3):
        issue(tmp_path / "other", Identity(Role.AGENT, "x"), tmp_path / "x")
        revoke(tmp_path / "other", Identity(Role.AGENT, "x"))
    with pytest.raises(NotAllowed, match="not signed by our authority"):
        take_list(party, (tmp_path / "other" / "crl.pem").read_bytes())


async def test_a_token_does_not_become_a_certificate(served: Served) -> None:
    made = await served.new_user(Role.ADMIN)
    assert await served.status("POST", "/pki/v1/renew", None, token=made.token) == 403
    assert await served.status("POST", "/pki/v1/renew", "h1", token=made.token) == 403
    assert (await raw(served, "POST", "/pki/v1/renew", json={"request": new_request()[1]}))[0] == 403


async def test_the_manager_gives_no_certificate_too_early(served: Served) -> None:
    renewal = Renewal(served.pki / "h1", served.url)
    with pytest.raises(Busy, match="too early"):
        await renewal.renew_if_due(datetime.now(UTC) + timedelta(days=61))
    await renewal.close()


async def test_a_revocation_is_not_outrun_by_renewing(served: Served) -> None:
    """The manager has not taken the list over yet: the gate still lets the party in."""
    authority = served.pki / "authority"
    revoke(authority, Identity(Role.AGENT, "h1"))
    before = issued(authority)
    renewal = Renewal(served.pki / "h1", served.url)
    with pytest.raises(NotAllowed, match="is revoked"):
        await renewal.renew_if_due(datetime.now(UTC) + timedelta(days=61))
    await renewal.close()
    assert issued(authority) == before


async def test_who_renews_gets_a_certificate_for_who_it_is(served: Served) -> None:
    made = await served.certificates.certify(new_request()[1], Identity(Role.AGENT, "h1"))
    subject = x509.load_pem_x509_certificate(made.certificate.encode()).subject.rfc4514_string()
    assert subject == "CN=h1,OU=agent"


# The beginning.


@pytest.fixture
def manager_toml(tmp_path: Path) -> Path:
    folders = {key: tmp_path / key for key in ("state", "pki", "authority")}
    file = tmp_path / "manager.toml"
    file.write_text('listen = "10.0.0.1:7440"\n' + "".join(f'{key} = "{path}"\n' for key, path in folders.items()))
    return file


def test_a_cluster_is_made_once(manager_toml: Path) -> None:
    config, admin = found(manager_toml, None, "ada")
    assert isinstance(config, ManagerConfig)
    before = {file: file.read_bytes() for file in manager_toml.parent.rglob("*") if file.is_file()}
    with pytest.raises(Busy, match="there is a cluster already"):
        found(manager_toml, None, "eve")
    assert {file: file.read_bytes() for file in manager_toml.parent.rglob("*") if file.is_file()} == before
    store = AccessStore(config.state / "access.db")
    assert Users(store).identify(admin.token) == Identity(Role.ADMIN, "ada")
    store.close()
    assert stat.S_IMODE((config.authority / "ca-key.pem").stat().st_mode) == 0o600


def test_without_an_address_no_cluster_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no"):
        found(tmp_path / "manager.toml", None, "ada")
    with pytest.raises(InvalidInput, match="is not an address"):
        found(tmp_path / "manager.toml", "here", "ada")
    assert list(tmp_path.iterdir()) == []


def test_an_authority_whose_key_others_can_read_signs_nothing(manager_toml: Path, tmp_path: Path) -> None:
    config, _ = found(manager_toml, None, "ada")
    (config.authority / "ca-key.pem").chmod(0o640)
    with pytest.raises(NotAllowed, match="can be read by others"):
        issue(config.authority, Identity(Role.AGENT, "h1"), tmp_path / "h1")
