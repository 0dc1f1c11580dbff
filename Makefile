# make demo    a server in ./.demo, with an account and lines to copy into a second terminal
# make test    the whole test suite
# Both need git, make and python3 with venv, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROGRAMS := $(VENV)/.programs
STAMP := $(VENV)/.installed
PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: demo test torture bench bench-ledger lint format format-check types clean
.PHONY: man install-systemd uninstall-systemd

demo: $(PROGRAMS)
	@exec $(BIN)/forkd demo

test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile

# The promises at scale: every test marked so, in its long form, one after the other.
torture: $(STAMP)
	FORKD_TORTURE=1 $(BIN)/pytest -m torture --timeout 3600 tests/system

# forkd beside the kernel's limits, rsync and other FTP servers; see docs/benchmarks.md.
bench: $(STAMP)
	$(BIN)/python -m bench.run $(BENCH)

bench-ledger: $(STAMP)
	$(BIN)/python bench/bench_ledger.py

lint: $(STAMP) format-check
	$(BIN)/ruff check .

format-check: $(STAMP)
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)
	$(BIN)/mypy

# The manual pages, from the programs' grammars and the commented configuration.
man: $(STAMP)
	$(BIN)/python -m deploy.man.make

# The program below PREFIX and a service of systemd's, docs/operating.md; DESTDIR is for packages.
install-systemd:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' deploy/systemd/install install

uninstall-systemd:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' deploy/systemd/install uninstall

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made anew where pyproject.toml is newer; a stamp comes last, so a broken installation is repeated.
$(PROGRAMS): pyproject.toml
	@echo "installing into $(VENV), once ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(STAMP): $(PROGRAMS)
	@echo "installing what the tests need into $(VENV), once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
