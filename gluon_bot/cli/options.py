"""The parser that says what may have been meant, and the types of options: numbers within limits, lists of seeds."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Callable, Dict, List, NoReturn, Tuple

from gluon_bot.console import did_you_mean, one_line, say

MOST = (1 << 31) - 1


class Parser(argparse.ArgumentParser):
    """argparse's, with errors of one line that say what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 after one line, with what may have been meant."""
        command = re.match(r'argument COMMAND: invalid choice: (.*) \(choose from', message, re.DOTALL)
        if command:
            word = command.group(1).strip("'")
            message = "unknown command '%s'%s" % (word, did_you_mean(word, commands_of(self)))
        say("%s: %s; see '%s --help'" % (self.prog, one_line(message), self.prog))
        sys.exit(2)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Of all commands. What no option of the command takes is one line, with what may be meant."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = commands_of(self)[options.command]
            plural = 's' * (len(unknown) > 1)
            command.error('unknown argument%s %s%s' % (plural, ' '.join(unknown), _meant(command, unknown)))
        return options


def _meant(command: argparse.ArgumentParser, unknown: List[str]) -> str:
    """What was meant by arguments that a command does not take: a field of its recipe, or one of its own options."""
    word, _, value = unknown[0].partition('=')
    if '--set' in command._option_string_actions and word.startswith('--'):
        from gluon_bot.recipes.fields import field_meant
        from gluon_bot.recipes.finetuning import fields_of
        field = field_meant(word[2:], fields_of(command.prog.split()[-1]))
        if field:
            return '; a field of the recipe is changed by --set %s=%s' % (field, value or (unknown + ['VALUE'])[1])
    return did_you_mean(word, [option for option in command._option_string_actions if option.startswith('--')], 0.6)


def commands_of(top: argparse.ArgumentParser) -> Dict[str, argparse.ArgumentParser]:
    """The parsers of the commands by their names; none in the parser of a command."""
    found = [action.choices for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `least` to `most`."""
    def parsed(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError
        return value

    parsed.__name__ = 'whole number from %d to %d' % (least, most)
    return parsed


def minutes(text: str) -> float:
    """A time above 0 and up to a week."""
    value = float(text)
    if not 0 < value <= 7 * 24 * 60:
        raise ValueError
    return value


minutes.__name__ = 'number of minutes'


def seeds(text: str) -> Tuple[int, ...]:
    """Whole numbers with commas, each once."""
    return tuple(dict.fromkeys(whole(0, MOST)(part) for part in text.split(',')))


seeds.__name__ = 'list of seeds, such as 0,1,2'


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


share.__name__ = 'number from 0 to 1'
