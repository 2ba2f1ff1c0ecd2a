"""Names for recommendations: the same for the same thing. Pure."""

from hashlib import sha256


def identity(*parts: str) -> str:
    """Eight hex digits that stand for `parts`."""
    return sha256("\0".join(parts).encode()).hexdigest()[:8]
