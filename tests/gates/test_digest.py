"""The digest follows every source of the native build and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.digest import SOURCES, source_digest
from tests.gates.native_build import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for source in SOURCES:
        file = tmp_path / source
        if (ROOT / source).is_dir():
            file = file / "folder" / "file.h"
            file.parent.mkdir(parents=True)
        file.write_text(source)
    return tmp_path


def test_all_sources_exist() -> None:
    assert [source for source in SOURCES if not (ROOT / source).exists()] == []


def test_digest_is_repeatable(tree: Path) -> None:
    assert source_digest(tree) == source_digest(tree)


def test_digest_sees_a_change_of_content_name_and_number(tree: Path) -> None:
    digests = {source_digest(tree)}
    header = tree / "csrc" / "folder" / "file.h"
    header.write_text("other")
    digests.add(source_digest(tree))
    header.rename(header.with_name("renamed.h"))
    digests.add(source_digest(tree))
    (tree / "csrc" / "new.cu").touch()
    digests.add(source_digest(tree))
    assert len(digests) == 4


def test_digest_ignores_other_files(tree: Path) -> None:
    before = source_digest(tree)
    (tree / "README.md").write_text("text")
    (tree / "csrc" / "README.md").write_text("text")
    assert source_digest(tree) == before
