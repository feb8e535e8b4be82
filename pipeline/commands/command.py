"""A command of ci2p's: click's, whose options the environment sets by their own names."""

from typing import Any

import click

from pipeline.commands.environment import name_variables


class Command(click.Command):
    """See above."""

    def __init__(self, *arguments: Any, **attributes: Any):
        super().__init__(*arguments, **attributes)
        name_variables(self)
