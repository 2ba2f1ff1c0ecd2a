"""Who is put out: a certificate that is revoked counts for no request, on a connection that is open either.

TLS refuses it for new connections already (see `pki.contexts`). What a role may do is said in `api`.
"""

from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from kvmove.pki.revocation import Revocations


def refuse_revoked(pki: Path) -> Middleware:
    """A middleware that raises NotAllowed for whoever is on the revocation list in the folder `pki`."""
    revocations = Revocations(pki)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        revocations.refuse(request.get_extra_info("peercert"))
        return await handler(request)

    return check
