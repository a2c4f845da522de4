"""Completion for bash and zsh, made from the parser: commands, options, names of recipes and networks; else file names."""

from __future__ import annotations

import argparse
from typing import Any, Dict, Iterable, List, Mapping, Sequence

from gluon_bot.recipes.classification import MODELS, RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS

SCRIPT = '''\
_gluon_bot() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=
  if [ "$COMP_CWORD" = 1 ]; then
    words='%(commands)s --help --version'
  elif [[ $word == -* ]]; then
    case ${COMP_WORDS[1]} in
%(options)s
    esac
  elif [ "$COMP_CWORD" = 2 ]; then
    case ${COMP_WORDS[1]} in
%(first)s
    esac
  else
    case "${COMP_WORDS[1]} $before" in
%(values)s
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _gluon_bot gluon-bot
'''


def script(shell: str, commands: Dict[str, argparse.ArgumentParser]) -> str:
    """What `shell`, bash or zsh, has to source; `commands` are the parsers by name."""
    options = {name: [word for word in command._option_string_actions if word.startswith('--')]
               for name, command in commands.items()}
    first: Dict[str, Sequence[str]] = {}
    values: Dict[str, Sequence[str]] = {}
    for name, command in commands.items():
        places = [action for action in command._actions if not action.option_strings]
        first[name] = _words(name, places[0]) if places else []
        for action in command._actions:
            for word in action.option_strings:
                values["'%s %s'" % (name, word)] = _words(name, action)
    bash = SCRIPT % {'commands': ' '.join(commands), 'options': _cases(options), 'first': _cases(first),
                     'values': _cases(values)}
    return ('autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n' if shell == 'zsh'
            else '') + bash


def _words(command: str, action: argparse.Action) -> Sequence[str]:
    """The words that may stand for an argument; none where it is a file, a number or a text."""
    if action.metavar == 'RECIPE':
        named: Dict[str, Any] = {**RECIPES, **FINE_TUNINGS}
        tasks = {'train': 'classify', 'detect': 'detect', 'segment': 'segment'}
        return [name for name, recipe in named.items() if tasks.get(command, recipe.task) == recipe.task]
    return MODELS if action.metavar == 'MODEL' else [str(choice) for choice in action.choices or ()]


def _cases(cases: Mapping[str, Iterable[str]]) -> str:
    lines: List[str] = ["      %s) words='%s' ;;" % (pattern, ' '.join(words)) for pattern, words in cases.items() if words]
    return '\n'.join(lines)
