"""The pages of the site, made from what is read on GitHub: `python docs/pages.py OUT`, then zensical (`make docs`).

README.md becomes the front page, docs/*.md and CONTRIBUTING.md pages beside it, and a source file that one of them
links to a page that shows it; links follow. Where docs/commands.md and docs/api.md hold a marker, the options of every
command and the directives for mkdocstrings are put in. Needs click and nothing else.
"""

import ast
import inspect
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import click

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS, API = "<!-- commands -->", "<!-- api -->"
_FENCED = re.compile(r"^(```.*?^```)[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
_LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml", ".json": "json", ".md": "markdown"}


def pages() -> list[Path]:
    """What people read, wherever: README.md first."""
    return [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def links(text: str) -> Iterator[str]:
    """The targets of the links and pictures of a page, outside its blocks of code."""
    for outside in _FENCED.split(text)[::2]:
        yield from _LINK.findall(outside)


def is_inside(link: str) -> bool:
    """Whether a link leads to a file of the repository, and not to the web or to a place of the same page."""
    return not re.match(r"[a-z]+:|#", link)


def place_of(file: Path) -> PurePosixPath:
    """Where a file of the repository is on the site: what is in docs/ by its name, sources below source/."""
    path = PurePosixPath(file.relative_to(REPOSITORY).as_posix())
    if path.as_posix() == "README.md":
        return PurePosixPath("index.md")
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    return PurePosixPath(path.name.lower()) if path.suffix == ".md" else PurePosixPath("source", f"{path}.md")


def target_of(page: Path, link: str) -> tuple[Path, str]:
    """(the file that a link of a page leads to, its anchor with the #)."""
    path, hash_, anchor = link.partition("#")
    return (page.parent / path).resolve(), hash_ + anchor


def with_links_of_the_site(page: Path, text: str) -> str:
    """A page whose links lead to where its targets are on the site."""
    here = place_of(page).parent

    def moved(link: str) -> str:
        if not is_inside(link):
            return link
        file, anchor = target_of(page, link)
        return os.path.relpath(place_of(file), here) + anchor

    parts = _FENCED.split(text)
    parts[::2] = [_LINK.sub(lambda found: moved(found[0]), outside) for outside in parts[::2]]
    return "".join(parts)


class _Rows(click.HelpFormatter):
    """Takes a command's sections of options as it would print them: (heading, rows of option and help)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[tuple[str, str]]]] = []

    def write_heading(self, heading: str) -> None:
        self.tables.append((heading, []))

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        self.tables[-1][1].extend(rows)


def command_reference() -> str:
    """Every command by click's own account of it: usage, text, and its options in the groups of --help."""
    import cli

    def of(command: click.Command, name: str) -> Iterator[str]:
        context, rows = click.Context(command, info_name=name), _Rows()
        yield f"\n## {name}\n"
        yield f"```text\n{' '.join((name, *command.collect_usage_pieces(context)))}\n```\n"
        for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
            as_it_stands = paragraph.startswith("\b\n")
            yield f"```text\n{paragraph[2:]}\n```\n" if as_it_stands else f"{paragraph}\n"
        inner = list(command.commands.values()) if isinstance(command, click.Group) else []
        (click.Command.format_options if inner else type(command).format_options)(command, context, rows)
        for heading, options in rows.tables:
            told = [
                f"| {option_of(option)} | {escaped(help)} |" for option, help in options if help and option != "--help"
            ]
            yield "\n".join((f"\n| {heading} | |\n|---|---|", *told)) if told else ""
        for below in inner:
            yield from of(below, f"{name} {below.name}")

    return "\n".join(line for command in cli.main.commands.values() for line in of(command, f"ci2p {command.name}"))


def option_of(record: str) -> str:
    """`--format [zarr|webdataset]` as code in a cell of a table."""
    return f"`{record}`".replace("|", "\\|")


def escaped(text: str) -> str:
    """Words of a help text, as a cell of a table: what would be markup there stands for itself."""
    return re.sub(r"([|*_<\[])", r"\\\1", text)


def api_reference() -> str:
    """A directive for each public name of ci2p.py, in the order of the file."""
    tree = ast.parse((REPOSITORY / "ci2p.py").read_text(encoding="utf-8"))
    public = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    }
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return "\n\n".join(f"::: ci2p.{name}" for name in defined if name in public)


def source_page(file: Path) -> str:
    """A page that shows a source file."""
    name, language = file.relative_to(REPOSITORY).as_posix(), _LANGUAGES.get(file.suffix, "text")
    return f"# {name}\n\n````{language}\n{file.read_text(encoding='utf-8')}````\n"


def write_pages(out: Path) -> None:
    """Writes the site's pages and pictures into a folder, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    style = REPOSITORY / "docs" / "site.css"
    files = {place_of(style): style.read_bytes()}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for link in filter(is_inside, links(text)):
            file, _ = target_of(page, link)
            if file.suffix in (".png", ".json") and place_of(file).suffix != ".md":
                files[place_of(file)] = file.read_bytes()
            elif file not in pages():
                files[place_of(file)] = source_page(file).encode()
        text = with_links_of_the_site(page, text)
        if COMMANDS in text:
            text = text.replace(COMMANDS, command_reference())
        files[place_of(page)] = text.replace(API, api_reference()).encode()
    for place, data in files.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_bytes(data)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    write_pages(Path(sys.argv[1]))
