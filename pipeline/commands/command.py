"""A command of ci2p's: click's, whose help is in groups, the most important first."""

from collections.abc import Mapping
from typing import Any

import click

_METAVARS = {"integer": "N", "integer range": "N", "float": "X", "float range": "X"}
_REST = "Options"


class Command(click.Command):
    """`groups`: heading -> the long names of its options, without their dashes; what is in none comes last."""

    def __init__(self, *arguments: Any, groups: Mapping[str, str] | None = None, **attributes: Any):
        super().__init__(*arguments, **attributes)
        self.groups = {heading: names.split() for heading, names in (groups or {}).items()}
        for option in self.params:
            if isinstance(option, click.Option) and option.metavar is None and not option.is_flag:
                option.metavar = _METAVARS.get(option.type.name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a section a group."""
        group_of = {name: heading for heading, names in self.groups.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self.groups, _REST)}
        for option in sorted(self.get_params(ctx), key=self._place):
            record = option.get_help_record(ctx)
            # The usage line names the arguments, and the text below it says what they are.
            if record is not None and isinstance(option, click.Option):
                name = max(option.opts, key=len).lstrip("-")
                sections[group_of.get(name, _REST)].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def _place(self, option: click.Parameter) -> int:
        """Within the group that it is in; others stay in the order in which they are declared."""
        names = [name for names in self.groups.values() for name in names]
        name = max(option.opts, key=len).lstrip("-")
        return names.index(name) if name in names else len(names)
