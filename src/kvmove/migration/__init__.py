"""Moves: planned, run on both hosts, handed over, and told about."""
