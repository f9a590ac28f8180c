"""Links in the documents lead somewhere; examples in blocks marked ``pycon`` print what they say."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|<img[^>]*\ssrc=\"([^\"]+)\"")
EXAMPLE = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def anchors(text: str) -> set[str]:
    """Of the headings, as code forges build them."""
    headings = re.findall(r"^#+\s+(.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: Path) -> list[str]:
    text = document.read_text(encoding="utf-8")
    targets = [first or second for first, second in LINK.findall(FENCED.sub("", text))]
    return [link for link in targets if not re.match(r"[a-z]+:", link) and not leads_somewhere(document, link)]


def leads_somewhere(document: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = document.parent / file if file else document
    return target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    assert dead_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_examples_print_what_they_say(document: Path) -> None:
    blocks = EXAMPLE.findall(document.read_text(encoding="utf-8"))
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name_of(document), str(document), 0)
    printed: list[str] = []
    results = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=printed.append)
    assert results.failed == 0, "".join(printed)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# A heading, short\n[a](page.md#a-heading-short) [b](gone.md) [c](#gone) [d](mailto:x)\n")
    assert dead_links(document) == ["gone.md", "#gone"]
