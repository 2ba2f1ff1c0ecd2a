# The setup and the commands that a newcomer runs. Everything installs what it needs: Debian packages, a virtual
# environment in .venv, a guest kernel in build/guest. Results are written to build/results/<target>.json.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
HOPS ?= 20
RUNS ?= 10
OUTPUT ?= table
DEBIAN := qemu-system-x86 qemu-utils iproute2 xfsprogs util-linux gcc libc6-dev python3-venv etcd-server
DEBIAN_LIBVIRT := libvirt-daemon-system libvirt-clients
DEBIAN_BENCH := $(DEBIAN_LIBVIRT) iperf3

.PHONY: full help setup packages guest demo test check unit integration faults soak compare bench bench-page downtime matrix \
        scale forecast man clean web web-check web-test

help:
	@echo "make demo      move a running VM between two hosts on this machine, and report what happened"
	@echo "make test      lint, types, unit and integration tests"
	@echo "make full      all tests, those that \`make test\` leaves out for their time too"
	@echo "make faults    every fault at every step of a move, on a lab"
	@echo "make soak      HOPS=$(HOPS) moves there and back under full write load"
	@echo "make compare   kvmove beside libvirt on one lab"
	@echo "make bench     kvmove beside libvirt, plain QEMU and the wire: about half an hour; BENCH=--full for hours;"
	@echo "               BENCH='--only one_nic_write_load' for one scenario; nothing else may run meanwhile"
	@echo "make bench-page  docs/benchmarks.md and its pictures, from what make bench measured"
	@echo "make downtime  RUNS=$(RUNS) moves of each kind, and how long the guest stood still; a fresh disk moved each way"
	@echo "make matrix    VMs moved in every way: kinds, images, disks, states; CASES=TEXT for some"
	@echo "make scale     the manager with 10, 100 and 1,000 simulated hosts: planning, starting tasks, memory"
	@echo "make forecast  20 moves of different guests, each forecast first, and how good the forecasts were"
	@echo "make man       manual pages into build/man"
	@echo "make web       the manager's web page, where Node 20.19 or newer is"
	@echo "make web-test  the page in a real browser (Chromium), with real moves"
	@echo "make setup     only what these need: packages, .venv, guest kernel"
	@echo "make clean     remove .venv, build and caches"

setup: packages $(VENV)/.ready guest web

packages:
	@scripts/need-packages $(DEBIAN)

$(VENV)/.ready: pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv $(VENV)
	@touch $@

guest: $(VENV)/.ready packages
	@test -e build/guest/vmlinuz || apt-get --quiet update >/dev/null
	@$(PY) -m kvmove.lab.guest.image build/guest

# Without Node there is no page, and all else works.
web: $(VENV)/.ready
	@scripts/build-web $(PY)

web-check: $(VENV)/.ready
	@scripts/build-web $(PY) check

demo: setup
	@$(PY) -m kvmove lab demo --results build/results -o $(OUTPUT)

soak: setup
	@$(PY) -m kvmove lab soak --hops $(HOPS) --results build/results -o $(OUTPUT)

compare: setup
	@scripts/need-packages $(DEBIAN_LIBVIRT)
	@$(PY) -m kvmove lab compare --no-tls --results build/results -o $(OUTPUT)

bench: setup
	@scripts/need-packages $(DEBIAN_BENCH)
	@$(PY) -m kvmove lab bench $(BENCH) --results build/results -o $(OUTPUT)
	@$(PY) -m kvmove.lab.bench_pictures build/results

bench-page: $(VENV)/.ready
	@$(PY) -m kvmove.lab.bench_page build/results docs

downtime: setup
	@$(PY) -m kvmove lab downtime --runs $(RUNS) --results build/results -o $(OUTPUT)

matrix: setup
	@$(PY) -m kvmove lab matrix $(if $(CASES),--only "$(CASES)") --results build/results -o $(OUTPUT)

scale: $(VENV)/.ready
	@$(PY) -m kvmove lab scale --results build/results -o $(OUTPUT)

forecast: setup
	@$(PY) -m kvmove lab forecast --results build/results -o $(OUTPUT)

man: $(VENV)/.ready
	@$(PY) scripts/make-man build/man
	@echo "written to build/man; look: man -l build/man/kvmove-move.1"

test: setup check unit integration

check: $(VENV)/.ready web-check
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit: packages $(VENV)/.ready
	$(PY) -m pytest tests/unit -m "not full" --numprocesses 2

# The page in a real browser; needs Node for the page and Chromium.
web-test: setup
	@scripts/need-packages chromium
	$(PY) -m pytest tests/web

integration: setup
	$(PY) -m pytest tests/integration tests/faults -m "not full"

faults: setup
	$(PY) -m pytest tests/faults

full: setup check
	@scripts/need-packages chromium
	$(PY) -m pytest tests

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +
