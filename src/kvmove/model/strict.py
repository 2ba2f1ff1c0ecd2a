"""The one base of everything that is parsed at an edge: frozen, and unknown keys are errors."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A noun of the product as it crosses JSON or TOML. Immutable; an unknown key is refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
