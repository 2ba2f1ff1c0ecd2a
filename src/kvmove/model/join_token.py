"""The text that lets one host join: where the manager is, how to know it, and the secret that is good once.

Pure. It is a secret as a whole; nothing here prints it, and an error about one does not repeat it.
"""

import base64
import binascii
from typing import Annotated, Self

from pydantic import Field, ValidationError

from kvmove.errors import InvalidInput
from kvmove.model.address import Address
from kvmove.model.names import Name
from kvmove.model.strict import Strict

_MARK = "kvmove-join-"


class JoinToken(Strict):
    """`authority` is the SHA-256 of the authority's certificate, hexadecimal; `manager` an https address."""

    name: Name
    control: Address
    manager: Annotated[str, Field(pattern=r"^https://[^\s/]+$")]
    authority: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{32,100}$")]

    def text(self) -> str:
        """One word that can be copied."""
        return _MARK + base64.urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that `text` is.

        :raise InvalidInput: it is none, or was not copied whole.
        """
        word = text.strip()
        body = word.removeprefix(_MARK)
        try:
            if body == word:
                raise ValueError("it begins otherwise")
            return cls.model_validate_json(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, ValidationError, binascii.Error):
            # Without a cause: pydantic's error would hold the token.
            raise InvalidInput(
                "this is no token of `kvmove host add`, or not the whole of it", hint="copy it again, or make another"
            ) from None
