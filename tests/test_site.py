"""The pages as a site: every page has a place in its navigation, and every link and anchor leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import pages as site
from tests.conftest import REPOSITORY

CONFIGURATION = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))


def places_in(navigation: list[dict[str, Any]]) -> Iterator[str]:
    for entry in navigation:
        for target in entry.values():
            if isinstance(target, list):
                yield from places_in(target)
            else:
                yield target


def anchors_of(page: Path) -> set[str]:
    """As GitHub and the site make them of the headings of a page that has no two alike."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_navigation_names_every_page_once() -> None:
    named = list(places_in(CONFIGURATION["nav"]))
    there = [str(site.place_of(page)) for page in site.pages()]
    missing, surplus = sorted(set(there) - set(named)), sorted(set(named) - set(there))
    assert not missing, f"no place in the nav of mkdocs.yml for {', '.join(missing)}"
    assert not surplus, f"the nav of mkdocs.yml names what is not there: {', '.join(surplus)}"
    assert len(named) == len(set(named))


@pytest.mark.parametrize("page", site.pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in site.links(page.read_text(encoding="utf-8")):
        if re.match("[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        file, anchor = site.target_of(page, link) if not link.startswith("#") else (page, link)
        assert file.is_file() and file.is_relative_to(REPOSITORY), f"{page.name}: {link} is no file here"
        assert not anchor or anchor[1:] in anchors_of(file), f"{page.name}: {link} has no such heading"


def test_the_pages_are_written_with_links_of_the_site(tmp_path: Path) -> None:
    site.write_pages(tmp_path / "pages")
    written = {str(path.relative_to(tmp_path / "pages")) for path in (tmp_path / "pages").rglob("*") if path.is_file()}
    assert {"index.md", "contributing.md", "source/ci2p.py.md", "source/examples/linear_probe.py.md"} <= written
    for page in (tmp_path / "pages").rglob("*.md"):
        for link in filter(site.is_inside, site.links(page.read_text(encoding="utf-8"))):
            assert (page.parent / link.partition("#")[0]).is_file(), f"{page.name}: {link}"
    commands = (tmp_path / "pages/commands.md").read_text()
    assert "\n## ci2p recipes copy\n" in commands and "| `--gpus N\\|all` |" in commands
    assert "::: ci2p.encode\n" in (tmp_path / "pages/api.md").read_text()
