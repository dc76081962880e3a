"""Shared by all tests: seeds, a bound on torch's threads, and the way to ``bench`` and ``tests``;
hypothesis draws the same examples in every run, so it needs no database of them.

The repository root goes to the end of the path, so that an installed package is tested rather than
the sources it was built from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))

_MAX_THREADS = 2

hypothesis.settings.register_profile("dsa_ops", database=None, derandomize=True)
hypothesis.settings.load_profile("dsa_ops")


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Iterator[None]:
    """Small tensors run no faster on many threads, and a shared machine runs slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, _MAX_THREADS))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, alone or in a run of all."""
    torch.manual_seed(0)
