"""Hypothesis must not time what it runs: no example of ours has a duration to promise, least of all one that does I/O."""

from hypothesis import settings

settings.register_profile("kvmove", deadline=None)
settings.load_profile("kvmove")
