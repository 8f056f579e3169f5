# Every command works from a fresh clone on Debian 12 or Ubuntu with Python 3.11+ (python3-venv), git and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORES  ?= -n $(shell expr $$(nproc) + 1) --dist worksteal
PROTOS := $(wildcard protos/comboio/v1/*.proto)
.DEFAULT_GOAL := help
.PHONY: help setup servers demo test check protos fmt faults test-bluez-vm bench package shape lock

help: ## Show these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Virtual environment, dependencies, generated code, pages' scripts
$(VENV)/.ready: pyproject.toml .ci/constraints.txt .ci/assets.py control_plane/web/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Comboio needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. As root: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

servers: setup ## Servers that tests need (root: apt; otherwise says what to run)
	@bash .ci/servers

demo: setup ## The whole road on this machine; ONCE=1 ends after 60 s with a balance
	@COMBOIO_CLONED=$$(stat -c %Y .git/description 2>/dev/null) $(BIN)/python -m control_plane.simulators.demo $(if $(ONCE),--once) $(if $(KEEP),--keep)

test: servers ## All tests (SQLite and PostgreSQL), on all cores; CORES= runs one at a time
	$(BIN)/python -m pytest $(CORES) $(ARGS)

check: servers ## What CI runs: style, types, imports, wire contract, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/buf lint --config .ci/buf.yaml --path protos
	$(BIN)/buf breaking --config .ci/buf.yaml --path protos --against protos/baseline.binpb
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

protos: setup ## Regenerate the stubs beside protos/comboio/v1/*.proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --mypy_out=quiet:. \
	  --grpc_python_out=. --mypy_grpc_out=quiet:. $(PROTOS)

fmt: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faults: servers test-bluez-vm ## The long crash suite: random kills on both databases, ten times as many generated cases
	COMBOIO_EFFORT=10 $(BIN)/python -m pytest tests/faults tests/journeys tests/properties tests/protos \
	  tests/control_plane/reconcile tests/control_plane/projections $(CORES) --timeout 1800 $(ARGS)

test-bluez-vm: setup ## Bluetooth on a real BlueZ, in a machine of its own; COMBOIO_SKIP_VM=1 leaves it out
	@COMBOIO_SERVERS=vm bash .ci/servers
	$(BIN)/python -m tests.bluez_vm.machine

bench: servers ## Every figure, `key value unit`; ONLY=<first word of the key>
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

package: setup ## Wheel in dist/
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation -w dist .

shape: setup ## Sizes of files and functions, longest ten
	@$(BIN)/python .ci/shape.py

lock: setup ## Re-resolve .ci/constraints.txt from pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --no-header --no-annotate --allow-unsafe --strip-extras --all-extras -o .ci/constraints.txt pyproject.toml
