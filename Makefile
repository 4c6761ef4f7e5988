# Two commands are the whole set-up: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
QUIET := DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false GX_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true
ONE_CORE := OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1
QUICK := not slow and not prefect and not browser and not gpu

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types layers quick bench bench-recommender bench-ours bench-peers bench-components bench-forecast bench-serving bench-training ui up down serve clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,serving,operations,tuning,content]'
	@touch $(STAMP)

demo: $(STAMP)  ## the whole path on a year of groceries: data, models, figures, promotion, recommendations
	$(BIN)/perennial demo

test: $(STAMP) lint types layers  ## everything CI runs: lint, types, layers, all tests
	$(QUIET) $(BIN)/pytest

check: $(STAMP) lint types layers quick  ## lint, types, layers and the quick tests

lint: $(STAMP)  ## ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## mypy, strict on contracts, features and evaluation
	$(BIN)/mypy

layers: $(STAMP)  ## import-linter: imports point down only
	$(BIN)/lint-imports

quick: $(STAMP)  ## tests without server, browser or GPU
	$(QUIET) $(BIN)/pytest -q -m "$(QUICK)"

bench: $(STAMP)  ## the short benchmarks: features and validation print, the recommender writes benchmarks/results and docs/benchmarks.md
	$(BIN)/python -m benchmarks.features --quick
	$(BIN)/python -m benchmarks.validation --quick
	$(BIN)/python -m benchmarks.recommender --quick
	$(BIN)/python -m benchmarks.document

bench-recommender: $(STAMP)  ## quality beside baselines and libraries, on all data sets; ours and the peers side by side, a core each; hours; goes on where it was stopped
	$(MAKE) -j2 bench-ours bench-peers
	@echo "What both halves measured, side by side:"
	$(BIN)/python -m benchmarks.movielens_peers
	$(BIN)/python -m benchmarks.recommender_peers --stored
	$(BIN)/python -m benchmarks.tuned_baselines
	$(BIN)/python -m benchmarks.document

bench-ours: $(STAMP)  ## our half of bench-recommender
	$(ONE_CORE) $(BIN)/python -m benchmarks.recommender --threads 1
	$(ONE_CORE) $(BIN)/python -m benchmarks.further_sets --threads 1
	$(ONE_CORE) $(BIN)/python -m benchmarks.planted_season
	$(ONE_CORE) $(BIN)/python -m benchmarks.negative_control --threads 1
	$(ONE_CORE) $(BIN)/python -m benchmarks.leave_one_out

bench-peers: $(STAMP)  ## the libraries' half of it
	$(ONE_CORE) $(BIN)/python -m benchmarks.recommender_peers --storage .perennial/benchmarks_of_peers
	$(ONE_CORE) $(BIN)/python -m benchmarks.movielens_peers --storage .perennial/benchmarks_of_peers

bench-components: $(STAMP)  ## what each part of the recommender adds: few labels, ablation, warm start, new items; hours; goes on where it was stopped
	$(BIN)/python -m benchmarks.few_labels
	$(BIN)/python -m benchmarks.ablation
	$(BIN)/python -m benchmarks.ablation --data online_retail_ii
	$(BIN)/python -m benchmarks.warm_start
	$(BIN)/python -m benchmarks.new_items
	$(BIN)/python -m benchmarks.document

bench-forecast: $(STAMP)  ## forecasts on eight public sets, and what they do for the recommender; hours; goes on where it was stopped
	$(BIN)/python -m benchmarks.forecast
	$(BIN)/python -m benchmarks.forecast_help
	$(BIN)/python -m benchmarks.document

bench-training: $(STAMP)  ## what a training target costs, beside RePlay and RecTools where they are installed; loading and evaluation
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.document

ui: $(STAMP)  ## web pages of Prefect and MLflow over the demo's stores
	$(BIN)/perennial ui

serve: $(STAMP)  ## the recommendation service with its page, over the demo's champion: http://127.0.0.1:8080
	$(BIN)/perennial serve

bench-serving: $(STAMP)  ## latency, throughput, memory and hot swaps of the service; writes benchmarks/results/serving.json
	$(BIN)/python -m benchmarks.serving

up: $(STAMP)  ## a real installation, loopback only: PostgreSQL, Prefect with a worker, MLflow, webhook bridge
	$(BIN)/perennial up

down:  ## end what `make up` started; everything stored stays
	$(BIN)/perennial down

clean:  ## remove the demo's stores (not .venv)
	rm -rf .perennial
