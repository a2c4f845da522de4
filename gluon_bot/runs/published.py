"""Facts of logs that others published, without the logs: published.json, written by `python -m gluon_bot.report.published`.

For each run: where its log is (repository, file, commit), the fields of a recipe that the log states, the data, its last and
best epoch, minutes an epoch, and how it differs from the nearest recipe of ours.
"""

from __future__ import annotations

from typing import Any, Dict, List

from gluon_bot import InputError
from gluon_bot.console import one_line
from gluon_bot.files import parse_json, read_bounded
from gluon_bot.runs.logged import PERCENT, Note, Run, cleaned

NAME = 'published.json'
MOST_BYTES = 4 << 20
HEADER = ('repository', 'commit', 'best', 'counted_images', 'arguments', 'no_field')  # what else is kept of an entry


def read(path: str, note: Note) -> List[Run]:
    """The runs of the file `path`, each with its last epoch alone. `note` hears of entries that are left out.

    Raises InputError for a file that is not such a list.
    """
    try:
        entries = parse_json(read_bounded(path, MOST_BYTES).decode('utf-8', 'replace'))['published']
        if not isinstance(entries, list):
            raise TypeError
    except OSError as error:
        raise InputError('%s: cannot be read: %s' % (one_line(path), error.strerror)) from None
    except (ValueError, TypeError, KeyError):
        raise InputError("%s: not a list of published runs; make it with 'python -m gluon_bot.report.published LOGS'"
                         % one_line(path)) from None
    runs = []
    for number, entry in enumerate(map(cleaned, entries), 1):
        try:
            runs.append(_run(entry, note))
        except (AttributeError, TypeError, KeyError, ValueError):
            note(0, 'run %d is not a published run, left out' % number)
    return runs


def _run(entry: Dict[str, Any], note: Note) -> Run:
    recipe, data, last = (entry[name] for name in ('recipe', 'data', 'last'))
    if not (isinstance(recipe, dict) and isinstance(data, dict)):
        raise ValueError
    run = Run(str(entry['file']), 'gluoncv', str(entry['task']), recipe, data, suspect=str(entry['suspect']),
              header={'facts': True, **{name: entry[name] for name in HEADER if name in entry}})
    values = {name: value for name, value in last.items() if name != 'epoch'}
    for name, metric in (('training_seconds', 'minutes_an_epoch'), ('seconds', 'minutes_with_evaluation')):
        if entry.get(metric) is not None:
            values[name] = 60 * entry[metric]
    if not run.add(last['epoch'], values, 0, note):
        raise ValueError
    return run


def is_told_by(facts: Run, whole: Run) -> bool:
    """Whether `whole` is the log that the run `facts` was taken from."""
    return bool(facts.header.get('facts')) and (facts.task, facts.recipe) == (whole.task, whole.recipe) and all(
        whole.epochs.get(epoch, {}).get(name) == value
        for epoch, values in facts.epochs.items() for name, value in values.items() if name in PERCENT)
