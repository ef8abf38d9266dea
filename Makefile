# A newcomer needs make demo and make test. Every target can be run again; it does only the remaining work.
PYTHON ?= python3
RECIPE ?= cpu
PRESET ?= full
DATA ?=
TESTS ?= tests/runtime tests/contract
PEERS_OF ?=
ORDER ?=
SEED ?= default
VENV := .venv
BASE_VENV := .venv-base
# values from the user reach the shell as variables, so that blanks, quotes and dollars are not interpreted
override DATA := $(value DATA)
override RECIPE := $(value RECIPE)
override PRESET := $(value PRESET)
override TESTS := $(value TESTS)
override PEERS_OF := $(value PEERS_OF)
override SEED := $(value SEED)
export DATA RECIPE PRESET TESTS PEERS_OF SEED
NAME := $${DATA:+$$(basename -- "$$DATA")-}$$RECIPE
RUN := runs/$(NAME)
BUNDLE := bundles/$(NAME)
FROM_DATA := $${DATA:+--data "$$DATA"}
OF_RUN := $(if $(PEERS_OF),--run "$$PEERS_OF")
LABELS := train/logo_edge_train/data/labels.csv
SEARCH := $(filter full,$(RECIPE))
EDGE := $(VENV)/bin/logo-edge
BASE_EDGE := $(BASE_VENV)/bin/logo-edge
# a worker for each core: threads of PyTorch or NumPy in it would only wait for each other
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
IN_ORDER := $(if $(filter random,$(ORDER)),--randomly-seed="$$SEED",-p no:randomly)

.PHONY: help demo web setup data train compress bench peers test test-quick test-oldest lint dist clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .stamps/base  ## Classify the sample logos with the embedded bundle; show them on a page (base install only)
	@$(BASE_EDGE) classify runtime/logo_edge/samples
	@$(BASE_EDGE) classify runtime/logo_edge/samples --out runs/demo.html --overwrite
	@if [ "$$(uname)" = Darwin ]; then open runs/demo.html; \
	elif [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open runs/demo.html; fi || true

web:  ## Build the browser demo and serve it on http://127.0.0.1:8000 (needs Node.js 20)
	npm ci --prefix runtime/web --omit=dev --ignore-scripts --no-audit --no-fund
	node runtime/web/build.js
	$(PYTHON) -m http.server 8000 --bind 127.0.0.1 --directory runtime/web/dist

setup: .stamps/full  ## Create the full environment in .venv

data: .stamps/data  ## Fetch and render the project's logos into the cache

train: .stamps/full  ## Train the teachers (`full`: after a search): make train [DATA=folder or labels] [RECIPE=smoke|own|cpu|shipped|full]
	$(if $(SEARCH),$(EDGE) search --recipe "$$RECIPE" --out "$(RUN)" $(FROM_DATA))
	$(EDGE) train --recipe "$(if $(SEARCH),$(RUN)/search/derived.toml,$$RECIPE)" --out "$(RUN)" $(FROM_DATA)

compress: export GATES ?= $(if $(DATA),,$(wildcard benchmarks/gates/$(RECIPE).toml))
compress: .stamps/full  ## Distil, quantize, verify, calibrate and pack the trained run; check its gates
	$(EDGE) compress "$(RUN)" --out "$(BUNDLE)"
	$(if $(GATES),$(EDGE) check "$(BUNDLE)" --gates "$$GATES" --images "$$($(EDGE) data where)" \
	  --manifest "$$(if [ -n "$$DATA" ]; then $(EDGE) data where "$$DATA"; else printf '%s\n' "$(LABELS)"; fi)")

bench: .stamps/data  ## Measure the default bundle, an hour on an idle machine: make bench [PRESET=quick]
	$(EDGE) bench "--$$PRESET" --scaling --install-size --threads 1,2 --batches 1,8 --manifest train/logo_edge_train/data/labels.csv \
	  --images "$$($(EDGE) data where)" --out benchmarks/results/bench.json --report runs/bench
	$(VENV)/bin/python -m logo_edge_bench.experiments tables

peers: .stamps/data  ## Train (if needed) and measure the usual alternatives, a day: make peers [PEERS_OF=runs/shipped] [PRESET=quick]
	-$(VENV)/bin/python benchmarks/peers/run.py train $(OF_RUN)
	$(VENV)/bin/python benchmarks/peers/run.py measure $(OF_RUN) --preset "$$PRESET" --out benchmarks/results/peers.json --report runs/peers/report
	$(VENV)/bin/python -m logo_edge_bench.experiments tables

test: .stamps/full  ## Run the whole test suite: make test [ORDER=random [SEED=7]]
	$(PYTEST) $(IN_ORDER)

test-quick: .stamps/full  ## Run the quick tests of the runtime (no slow, no network): make test-quick [TESTS=tests/compress]
	$(PYTEST) $(IN_ORDER) -m "not slow and not network" $$TESTS

test-oldest:  ## Run the runtime's quick tests with the oldest libraries that the base install permits
	.ci/oldest $(PYTHON) .venv-oldest

lint: .stamps/full  ## Check style, and what the documents take from results, docstrings and --help
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m logo_edge_bench.experiments tables --check

dist:  ## Build sdist, wheel and bill of materials in dist/, and audit them
	.ci/dist $(PYTHON) .venv-dist

clean:  ## Remove the environments and stamps; runs and bundles stay
	rm -rf $(VENV) $(BASE_VENV) .venv-oldest .venv-dist .stamps dist

.stamps/base: pyproject.toml constraints.txt runtime/build_c.py $(wildcard runtime/c/*)
	$(PYTHON) -m venv $(BASE_VENV)
	$(BASE_VENV)/bin/python $(PIP_INSTALL) -e .
	@mkdir -p .stamps && touch $@

.stamps/full: pyproject.toml constraints.txt runtime/build_c.py $(wildcard runtime/c/*)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --no-compile -e '.[dev]'
	$(VENV)/bin/python $(PIP_INSTALL) --no-compile --no-deps tensorrt-stubs  # whose dependency needs an NVIDIA GPU; for a test of types
	$(VENV)/bin/python $(PIP_INSTALL) --no-compile --no-deps rapidocr-onnxruntime  # whose dependency overwrites opencv-python-headless
	$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true  # pip would compile on one core; some packages have files of Python 2
	@mkdir -p .stamps && touch $@

.stamps/data: .stamps/full train/logo_edge_train/data/labels.csv train/logo_edge_train/data/unlabelled.csv
	$(EDGE) data fetch
	@touch $@
