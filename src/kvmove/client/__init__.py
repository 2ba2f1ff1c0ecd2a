"""Typed clients of the manager's and the agents' interfaces."""
