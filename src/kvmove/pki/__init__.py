"""Identities and mutual TLS: who a party is, how it proves it, and how one party calls another."""
