"""Fixtures that several test modules share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from reliability import Tried

if TYPE_CHECKING:  # tests that need no model need not wait for torch
    from transformers import PreTrainedTokenizerBase

    from glore_lib.run import Run

# Of tiny models, threads wait for each other longer than they work. Before torch is imported; processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.load_profile("suite")

DATA = Path(os.environ.get("GLORE_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data")


def pytest_collection_finish() -> None:
    """Leave what the imports made out of garbage collections: accelerate does one after each training."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set GLORE_DATA_DIR to the folder of the published data sets and return it; skip the test if there is none."""
    if not DATA.is_dir():
        pytest.skip(f"no published data sets: {DATA} (GLORE_DATA_DIR, or else ../shared/data) is no folder")
    monkeypatch.setenv("GLORE_DATA_DIR", str(DATA))
    return DATA


@pytest.fixture(scope="session")
def reliability(request: pytest.FixtureRequest) -> Iterator[Tried]:
    """Return ``reliability(fault, outcome, lost)``, which adds an observed fault to the table of docs/reliability.md.

    Its scope is the session, because hypothesis calls a test many times per setup.
    """
    tried = Tried()
    yield tried
    if (path := os.environ.get("GLORE_RELIABILITY")) and not request.session.testsfailed:
        tried.save(Path(path))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny random model with the mini model's tokenizer and return its folder."""
    from tiny import save_tiny_base

    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one with rows of 64 weights: bitsandbytes rounds in blocks of 64, and unpacks only whole ones on a CPU."""
    from glore_lib.pretraining.pretrain import build_tokenizer
    from tiny import save_random_llama

    return save_random_llama(build_tokenizer(), tmp_path_factory.mktemp("tiny") / "wide", width=64)


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> "PreTrainedTokenizerBase":
    from glore_lib.models.tokens import load_tokenizer

    return load_tokenizer(str(tiny_base))


@pytest.fixture(scope="session")
def llama2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny random model with a tokenizer like Llama-2's, which has no pad token, and return its folder."""
    from tiny import llama2_tokenizer, save_random_llama

    return save_random_llama(llama2_tokenizer(), tmp_path_factory.mktemp("tiny") / "llama2", width=64)


@pytest.fixture(scope="session")
def llama2_tokenizer(llama2_base: Path) -> "PreTrainedTokenizerBase":
    from glore_lib.models.tokens import load_tokenizer

    return load_tokenizer(str(llama2_base))


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> "Run":
    """Open a run on the tiny model, or on the model of the named fixture, with its own empty store."""
    from tiny import open_tiny

    return open_tiny(request.getfixturevalue(getattr(request, "param", "tiny_base")), tmp_path / "artifacts")
