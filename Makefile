# Everything a developer runs. Each target sets up .venv first where that is needed.

VENV := .venv
BIN := $(VENV)/bin
PROJECTS := core backends plugins/roller plugins/welder plugins/grinder plugins/rammer .
METADATA := pyproject.toml core/pyproject.toml backends/pyproject.toml $(wildcard plugins/*/pyproject.toml)
# More arguments for pytest, for example: make test ARGS="core/tests -k expr"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo lint test test-slow test-full test-gpu wheels clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-10s %s\n", $$1, $$2}'

$(VENV)/.ready: tools/setup.sh requirements/constraints.txt $(METADATA)
	tools/setup.sh

setup: $(VENV)/.ready ## Build .venv: pinned dependencies, editable installs

demo: $(VENV)/.ready ## Compile and run a model, and compare it with ONNX Runtime
	$(BIN)/python examples/demo.py

lint: $(VENV)/.ready ## ruff, mypy and the import rule
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: $(VENV)/.ready ## The default tier, at most 15 minutes
	$(BIN)/pytest -n auto $(ARGS)

test-slow: $(VENV)/.ready ## The slow tier, at most 40 minutes
	$(BIN)/pytest -n auto -m "slow and not full and not gpu" $(ARGS)

test-full: $(VENV)/.ready ## Every tier but the GPU's, with more examples: hours
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -m "not gpu" $(ARGS)

test-gpu: $(VENV)/.ready ## The tests that need an NVIDIA GPU
	$(BIN)/pytest -m gpu $(ARGS)

wheels: $(VENV)/.ready ## Build every distribution's wheel into dist/
	rm -rf dist
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation -w dist \
		$(patsubst %,./%,$(PROJECTS))
	@ls dist

clean: ## Remove .venv and everything that is built
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
