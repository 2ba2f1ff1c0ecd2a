"""Hypothesis must not time what it runs: no example of ours has a duration to promise, and some do I/O."""

from hypothesis import settings

settings.register_profile("kvmove", deadline=None)
settings.load_profile("kvmove")
