# The setup and the commands that a newcomer runs. Everything installs what it needs: Debian packages, a virtual
# environment in .venv, a guest kernel in build/guest.
PY := .venv/bin/python

.PHONY: check
check:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
