"""The examples in the public docstrings and the README run on a CPU and print what they say."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import dsa_ops
from dsa_ops import formats, model
from dsa_ops._library import OPS

DOCUMENTED = {
    **{name: getattr(dsa_ops, name) for name in OPS},
    "index_cache_views": formats.index_cache_views,
    "mla_cache_views": formats.mla_cache_views,
    "DsaAttention": model.DsaAttention,
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_example(name: str) -> None:
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    names = {"torch": torch, "dsa_ops": dsa_ops}
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", OPS)
def test_sections(name: str) -> None:
    function = getattr(dsa_ops, name)
    text = inspect.getdoc(function) or ""
    returns = inspect.signature(function).return_annotation != "None"
    sections = ["Args:", *(["Returns:"] if returns else []), "Raises:", "Example:"]
    places = [text.find(f"\n{section}\n") for section in sections]
    assert -1 not in places and places == sorted(places), dict(zip(sections, places, strict=True))
    for argument in inspect.signature(function).parameters:
        described = text[places[0] : places[1]]
        assert argument in described, f"{name} does not describe {argument}"


def test_readme_example() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["indices"].shape == (names["T"], names["top_k"])
    assert names["out"].isfinite().all() and names["lse"].isfinite().all()
