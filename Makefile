# Everything starts from a bare machine: Python 3.11 or newer, git, make and the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-js test-browser lint types check-generated generate bench bench-scale bench-hash bench-login prove simulate torture hostile model-check prove-controls mutants clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/edgereplica demo

test: lint types check-generated
	$(BIN)/python -m pytest -n 2 -q

# The official JavaScript clients; needs Node 20 or newer and npm.
test-js: $(STAMP)
	npm --prefix tests/interop/js install --no-audit --no-fund
	cd tests/interop/js && PATH="$(abspath $(BIN)):$$PATH" npm run generate
	cd tests/interop/js && PATH="$(abspath $(BIN)):$$PATH" npm test

# The pages of a login in headless Chromium; screenshots go to build/browser.
test-browser: $(STAMP)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  { echo "this needs Chromium: apt-get install chromium" >&2; exit 1; }
	$(BIN)/python -m pytest -q tests/browser/oauth_in_chromium.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Generated files: the Connect code from proto/, the machines' diagrams and tables in specs/.
generate: $(STAMP)
	cd proto && PATH="$(abspath $(BIN)):$$PATH" buf lint && PATH="$(abspath $(BIN)):$$PATH" buf generate
	$(BIN)/python -m edgereplica.app.machines specs/machines
	$(BIN)/python -m edgereplica.app.authorization specs/authorization.md
	$(BIN)/python -m tests.wire_vectors

check-generated: $(STAMP)
	rm -rf build/proto && mkdir -p build/proto
	cd proto && PATH="$(abspath $(BIN)):$$PATH" buf generate -o ../build/proto
	diff -r -x __pycache__ proto/gen build/proto/gen
	$(BIN)/python -m edgereplica.app.machines --check specs/machines
	$(BIN)/python -m edgereplica.app.authorization --check specs/authorization.md

# Sizes in MiB, repeats of every run, and PUBLISH=1 to copy the results to docs/bench.
SIZES ?= 1,64,1024
REPEATS ?= 3
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	$(BIN)/python -m bench.sync --sizes $(SIZES) --repeats $(REPEATS) $(if $(PUBLISH),--publish)

# SCALED=1 starts PostgreSQL and an S3 server and measures on them; else DATABASE_URL and
# PAGE_STORE_URL choose what is measured. QUICK=1 for small sizes.
bench-scale: $(STAMP)
	$(BIN)/python -m bench.scale $(if $(SCALED),--scaled) $(if $(QUICK),--quick) $(if $(PUBLISH),--publish)

bench-hash: $(STAMP)
	npm --prefix bench/hash install --no-audit --no-fund
	$(BIN)/python -m bench.hash

# The time of a refused login for a known and an unknown user, over 200 tries each.
bench-login: $(STAMP)
	$(BIN)/python -m bench.login_timing

# Real faults: SCALE=1 is the full count of every check, SCALE=0 the least; CHECKS names some of them.
# The figures go to specs/evidence.md, those of less than the full count to another PAGE.
SCALE ?= 1
SEED ?= 1
PAGE ?= specs/evidence.md
torture: $(STAMP)
	$(BIN)/python -m proof.torture --scale $(SCALE) --seed $(SEED) --page $(PAGE) $(CHECKS)

# The model-based check, long: STEPS rules over all storages. And the simulation: SEEDS seeds from
# FIRST on, each played twice.
STEPS ?= 50000
SEEDS ?= 100000
FIRST ?= 0
prove: $(STAMP)
	$(BIN)/python -m proof.prove --steps $(STEPS) --seed $(SEED) --page $(PAGE)

simulate: $(STAMP)
	$(BIN)/python -m proof.simulate --seeds $(SEEDS) --first $(FIRST) --page $(PAGE)

# The protocol's Promela model, every state of it, and its planted flaws; needs spin and gcc.
model-check: $(STAMP)
	$(BIN)/python -m proof.model_check --page $(PAGE)

# Hostile input to codecs, machines, tokens and the client.
hostile: $(STAMP)
	$(BIN)/python -m proof.hostile --scale $(SCALE) --seed $(SEED) --page $(PAGE) $(CHECKS)

# Every flaw of the list, planted one at a time in a copy, must turn a check red; CHECKS names some.
prove-controls: $(STAMP)
	$(BIN)/python -m proof.controls $(if $(CHECKS),,--page $(PAGE)) $(CHECKS)

# Mutants of codecs, machines and token code must die; CHECKS names some of the files.
mutants: $(STAMP)
	$(BIN)/python -m proof.controls.mutants --page $(PAGE) $(CHECKS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
