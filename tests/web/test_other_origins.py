"""What a page of somebody else can do in the browser of a user who has logged in: nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.async_api import Response

from kvmove.lab.spec import DatastoreSpec, LabSpec
from kvmove.model.access import UserRole
from kvmove.units import GIB
from tests.support.browser import browser
from tests.support.labs import lab_name, tidy_lab

pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(300)]


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<iframe name=there></iframe>")

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextmanager
def others_page(name: str) -> Iterator[str]:
    """The address of a page of another origin: of the same site, as a cookie sees it, if `name` is the manager's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{name}:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


TRY_FORM = """(action) => {
    const form = document.createElement("form");
    Object.assign(form, {action, method: "post", enctype: "text/plain", target: "there"});
    form.innerHTML = `<input name='{"move_disks":false,"' value='":0}'>`;
    document.body.append(form);
    form.submit();
}"""
TRY_STREAM = """(address) => new Promise((done) => {
    const source = new EventSource(address, {withCredentials: true});
    source.onopen = () => done("open");
    source.onerror = () => done("refused");
})"""
TRY_FETCH = (
    """([address, how]) => fetch(address, {credentials: "include", ...how}).then(() => "open", () => "refused")"""
)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_page_of_another_origin_is_refused(name: str) -> None:
    spec = LabSpec(name=lab_name("webo"), nics=(0,), datastore=DatastoreSpec(size=GIB))
    async with tidy_lab(spec) as lab, browser(lab, UserRole.ADMIN) as at:
        api = f"{at.address}api/v1"
        answers: list[Response] = []
        at.page.on("response", lambda answer: answers.append(answer) if answer.url.startswith(api) else None)
        with others_page(name) as address:
            await at.page.goto(address)
            async with at.page.expect_response(f"{api}/**") as answered:
                await at.page.evaluate(TRY_FORM, f"{api}/hosts/h2:enterMaintenance")
            await answered.value
            assert await at.page.evaluate(TRY_STREAM, f"{api}/events") == "refused"
            for how in ({}, {"method": "POST", "body": "{}"}):
                assert await at.page.evaluate(TRY_FETCH, [f"{api}/events", how]) == "refused"
        assert answers, "nothing came to the manager at all"
        assert {answer.status for answer in answers} <= {401, 403}, [(it.url, it.status) for it in answers]
        assert (await lab.manager.host("h2")).maintenance is None
        await at.page.goto(at.address)
        await at.page.get_by_role("heading", name="Overview").wait_for()  # who has logged in still is
