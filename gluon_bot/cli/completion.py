"""Completion for bash and zsh, made from the parser by shtab: commands, options, names of recipes and networks, files."""

from __future__ import annotations

import argparse
from typing import List

import shtab

from gluon_bot.cli.parser import commands_of
from gluon_bot.recipes.classification import MODELS
from gluon_bot.recipes.finetuning import recipes_for
from gluon_bot.recipes.study import shipped

FILES = ('DIR', 'SOURCE', 'OUT', 'PATH', 'FILE', 'CHECKPOINT', 'WEIGHTS', 'RUN', 'IMAGE', 'LOG')


def script(shell: str, top: argparse.ArgumentParser) -> str:
    """What `shell`, bash or zsh, has to evaluate; `top` is the parser of all commands and is changed by this."""
    for name, command in commands_of(top).items():
        for action in command._actions:
            if action.metavar == 'RECIPE':
                action.choices = recipes_of(name)
            elif action.metavar == 'STUDY':
                action.choices = shipped()
            elif action.metavar == 'MODEL':
                action.choices = MODELS
            elif action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(top, shell)


def recipes_of(command: str) -> List[str]:
    """The recipes that a command takes."""
    return list(recipes_for('train' if command == 'benchmark' else command))
