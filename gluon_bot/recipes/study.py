"""A study: rows of the paper's tables at another scale, with seeds, described in one JSON file (`recipes/studies/*.json`).

    title, seeds, limit    what it is, the seeds of every row, and the images an epoch of its rows (null: all)
    settings               groups of recipe fields by name, which rows share
    rows                   by name: `recipe`, `settings` (names of groups, in order), and where they apply `teacher`
                           or `backbone` (the row whose run it learns or starts from), and its own `seeds` and `limit`
    tables                 which row stands for which row of the paper: table, group, {paper's row: row}
    images_per_second      trained, evaluation included, by the beginning of 'NETWORK PRECISION', with ' taught' where it
                           has a teacher, or of a fine-tuning recipe's name; the longest one counts, null is not known.
                           An estimate for a machine without records, which `rates_from` describes
    extends                another study, or its file as seen from this one, whose keys these replace or, in objects, add to

Parents are the paper's: a row's gain is over the nearest row above it in the paper's table that the study has too.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from gluon_bot import InputError
from gluon_bot.console import did_you_mean
from gluon_bot.files import parse_json, read_bounded, reading
from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import override
from gluon_bot.recipes.finetuning import COMMANDS, NAMED

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'studies')
MOST_BYTES = 1 << 20
MOST_SEEDS = 1000
ROW_NAME = re.compile(r'[a-z0-9][a-z0-9-]{0,60}')  # names the folder of a run
KINDS: Dict[str, Tuple[type, ...]] = {
    'title': (str,), 'seeds': (list,), 'limit': (int, type(None)), 'settings': (dict,), 'rows': (dict,), 'tables': (list,),
    'images_per_second': (dict,), 'rates_from': (str,), 'extends': (str,)}
ROW_KINDS: Dict[str, Tuple[type, ...]] = {
    'recipe': (str,), 'settings': (str,), 'teacher': (str,), 'backbone': (str,), 'seeds': (list,),
    'limit': (int, type(None))}
TABLE_KINDS: Dict[str, Tuple[type, ...]] = {'table': (int,), 'group': (str,), 'rows': (dict,)}


class Row(NamedTuple):
    """One row: a recipe of the paper with the study's settings, trained once a seed."""

    name: str
    recipe: Any  # with its settings, of seed 0
    parent_recipe: str  # the recipe's name without them
    settings: Tuple[str, ...]  # 'field=value', in the order of --set
    needs: str  # the row whose run is its teacher or base network; ''
    seeds: Tuple[int, ...]  # its own; () for the study's
    limit: Optional[int]
    images_per_second: Optional[float]  # the study's estimate; None where it has none

    @property
    def command(self) -> str:
        """'train', 'detect' or 'segment'."""
        return COMMANDS[self.recipe.task]

    def of_seed(self, seed: int) -> Any:
        """The recipe of one of its runs."""
        return replace(self.recipe, seed=seed)


class StudyRun(NamedTuple):
    """A row with one seed."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Its folder in the study's output."""
        return '%s-seed%d' % (self.row.name, self.seed)


class StudyTable(NamedTuple):
    """Rows of one table of the paper, for one of its groups of columns, and the rows that stand for them."""

    number: int
    group: str
    rows: Dict[str, str]


@dataclass(frozen=True)
class Study:
    """What a study's file says."""

    name: str
    title: str
    seeds: Tuple[int, ...]
    rows: Dict[str, Row]
    tables: Tuple[StudyTable, ...]
    rates_from: str

    def needed(self, run: StudyRun) -> Optional[StudyRun]:
        """The run of the same seed that must be finished before, or of the needed row's first seed if it has no such."""
        if not run.row.needs:
            return None
        row = self.rows[run.row.needs]
        return StudyRun(row, run.seed if not row.seeds or run.seed in row.seeds else row.seeds[0])

    def runs(self, names: Iterable[str] = (), seeds: Tuple[int, ...] = ()) -> List[StudyRun]:
        """The runs of the named rows (default: all) with these seeds (default: the study's), seed by seed.

        Each stands behind the one it needs. A row with seeds of its own keeps them.
        Raises InputError for rows that the study does not have, or that have none of the seeds.
        """
        names = list(names)
        for name in names:
            if name not in self.rows:
                raise InputError("study '%s' has no row '%s'%s; its rows: %s"
                                 % (self.name, name, did_you_mean(name, self.rows), ' '.join(self.rows)))
        found: Dict[str, StudyRun] = {}
        rows = [row for row in self.rows.values() if row.name in names or not names]
        for seed in seeds or dict.fromkeys([*self.seeds, *(seed for row in rows for seed in row.seeds)]):
            for row in rows:
                if seed in (row.seeds or seeds or self.seeds):
                    self._add(StudyRun(row, seed), found)
        without = [row for row in rows if not any(run.row is row for run in found.values())]
        if without and (names or not found):
            raise InputError("study '%s' has no run of %s with these seeds, but with those of their own: %s" % (
                self.name, ', '.join(row.name for row in without),
                ' '.join(map(str, dict.fromkeys(seed for row in without for seed in row.seeds)))))
        return list(found.values())

    def _add(self, run: StudyRun, found: Dict[str, StudyRun]) -> None:
        chain, needed = [run], self.needed(run)
        while needed is not None and needed.name not in found:
            chain.append(needed)
            needed = self.needed(needed)
        found.update((one.name, one) for one in reversed(chain))


def arguments(study: Study, run: StudyRun, data: str, out: str) -> List[str]:
    """The command of a run: `gluon-bot` with these words. It goes on from the run's newest checkpoint."""
    row, needed = run.row, study.needed(run)
    words = [row.command, row.parent_recipe, '--data', data]
    words += ['--limit', str(row.limit)] if row.limit else []
    words += ['--resume']
    for setting in row.settings:
        words += ['--set', setting]
    if needed is not None:
        words += ['--teacher' if row.command == 'train' else '--backbone', os.path.join(out, needed.name)]
    return words + ['--seed', str(run.seed), '--out', os.path.join(out, run.name)]


def shipped() -> List[str]:
    """The names of the studies that come with the package."""
    return sorted(name[:-len('.json')] for name in os.listdir(SHIPPED) if name.endswith('.json'))


def read_study(name: str) -> Study:
    """The study called `name` that comes with the package, or that of the JSON file `name`.

    Raises InputError, with file, row and field, for anything in it that has no sense.
    """
    path, values = _load(name)
    if 'extends' in values:
        try:
            below, base = _load(values.pop('extends'), beside=path)
        except InputError as error:
            raise InputError('%s: extends: %s' % (path, error)) from None
        if 'extends' in base:
            raise InputError('%s: extends %s' % (path, 'itself' if os.path.samefile(path, below) else
                                                 '%s, which extends another; name that one' % below))
        values = {**base, **{key: {**base.get(key, {}), **value} if isinstance(value, dict) else value
                             for key, value in values.items()}}
    missing = [key for key in ('title', 'seeds', 'rows') if not values.get(key)]
    if missing:
        raise InputError('%s: has no %s' % (path, ' and no '.join(missing)))
    seeds = _seeds(values['seeds'], path)
    rows: Dict[str, Row] = {}
    for row_name, row in values['rows'].items():
        rows[row_name] = _row(row_name, row, values, rows, '%s: row %s' % (path, row_name))
    tables = tuple(_table(table, rows, path) for table in values.get('tables', []))
    return Study(os.path.basename(path)[:-len('.json')], values['title'], seeds, rows, tables, values.get('rates_from', ''))


def _load(name: str, beside: str = '') -> Tuple[str, Dict[str, Any]]:
    """The path and what it says of a study that comes with the package, or of a file, as seen from the one `beside` it."""
    path = os.path.join(SHIPPED, name + '.json') if name in shipped() else os.path.join(os.path.dirname(beside), name)
    if not path.endswith('.json'):
        raise InputError("unknown study '%s'%s; there are %s, or give a .json file"
                         % (name, did_you_mean(name, shipped()), ' and '.join(shipped())))
    with reading(path):
        data = read_bounded(path, MOST_BYTES)
    try:
        values = parse_json(data.decode('utf-8-sig'), by_hand=True)
    except ValueError as error:
        raise InputError('%s: is not JSON: %s' % (path, error)) from None
    _check(values, KINDS, path)
    return path, values


def _check(values: Any, kinds: Dict[str, Tuple[type, ...]], place: str) -> None:
    """InputError unless `values` is an object whose keys are known and whose values have their types."""
    if not isinstance(values, dict):
        raise InputError('%s: must be a JSON object' % place)
    for key, value in values.items():
        if key not in kinds:
            raise InputError("%s: has no field '%s'%s" % (place, key, did_you_mean(key, kinds)))
        if type(value) not in kinds[key]:
            raise InputError('%s: %s has the wrong type' % (place, key))


def _seeds(values: List[Any], place: str) -> Tuple[int, ...]:
    if not 0 < len(values) <= MOST_SEEDS or not all(type(seed) is int and 0 <= seed < 1 << 31 for seed in values) \
            or len(set(values)) < len(values):
        raise InputError('%s: seeds must be different whole numbers, %d of them at most' % (place, MOST_SEEDS))
    return tuple(values)


def _row(name: str, values: Any, study: Dict[str, Any], rows: Dict[str, Row], place: str) -> Row:
    """`rows` are those above it, which alone it can need."""
    if not ROW_NAME.fullmatch(name):
        raise InputError('%s: a name must be of small letters, digits and dashes, and at most 61 of them' % place)
    _check(values, ROW_KINDS, place)
    recipe = values.get('recipe', '')
    if not recipe:
        raise InputError('%s: has no recipe' % place)
    if recipe not in NAMED:
        raise InputError("%s: unknown recipe '%s'%s" % (place, recipe, did_you_mean(recipe, NAMED)))
    settings: List[str] = []
    groups = study.get('settings', {})
    for group in values.get('settings', '').split():
        if group not in groups:
            raise InputError("%s: there are no settings '%s'%s" % (place, group, did_you_mean(group, groups)))
        if not isinstance(groups[group], dict):
            raise InputError("%s: settings '%s' must be a JSON object of a recipe's fields" % (place, group))
        if 'seed' in groups[group]:
            raise InputError("%s: settings '%s' have a seed; the runs' seeds are those of the study's field seeds"
                             % (place, group))
        settings += ['%s=%s' % (field, _text(value)) for field, value in groups[group].items()]
    role = 'teacher' if NAMED[recipe].task == 'classify' else 'backbone'
    if set(values) & {'teacher', 'backbone'} - {role}:
        raise InputError("%s: recipe '%s' takes a %s" % (place, recipe, role))
    needs = values.get(role, '')
    if needs and needs not in rows:
        raise InputError("%s: its %s '%s' is no row above it%s" % (place, role, needs, did_you_mean(needs, rows)))
    if needs and rows[needs].command != 'train':
        raise InputError("%s: its %s '%s' is no classifier" % (place, role, needs))
    if needs and role == 'teacher' and _other_model(rows[needs]):
        raise InputError("%s: its teacher '%s' is a %s, and a student learns from the network of a named recipe; leave the "
                         'teacher its own' % (place, needs, rows[needs].recipe.model))
    if needs:
        settings.append('%s=%s' % (role, rows[needs].parent_recipe))
    if needs and role == 'backbone':
        settings.append('backbone_model=%s' % _other_model(rows[needs]))
    limit = values.get('limit', study.get('limit'))
    if limit is not None and not 1 <= limit < 1 << 31:
        raise InputError('%s: limit must be above 0 and below 2147483648' % place)
    try:
        changed = override(NAMED[recipe], settings)
    except InputError as error:
        raise InputError('%s: %s' % (place, error)) from None
    if changed.task == 'classify' and changed.teacher and not needs:
        raise InputError("%s: recipe '%s' learns from '%s'; name the row that trains it with \"teacher\""
                         % (place, recipe, changed.teacher))
    if changed.task != 'classify' and changed.pretrained and not needs:
        raise InputError("%s: recipe '%s' is fine-tuned; name the row that trains its base network with \"backbone\""
                         % (place, recipe))
    rate = _rate(changed, study.get('images_per_second', {}), place)
    return Row(name, changed, recipe, tuple(settings), needs,
               _seeds(values['seeds'], place) if 'seeds' in values else (), limit, rate)


def _other_model(row: Row) -> str:
    """The network of a classifier's row, where it is not its recipe's own."""
    return '' if row.recipe.model == RECIPES[row.parent_recipe].model else row.recipe.model


def _rate(recipe: Any, rates: Dict[str, Any], place: str) -> Optional[float]:
    label = recipe.name
    if recipe.task == 'classify':
        label = '%s %s%s' % (recipe.model, recipe.precision, ' taught' * bool(recipe.teacher))
    found = max((key for key in rates if label.startswith(key)), key=len, default='')
    rate = rates.get(found)
    if rate is not None and (type(rate) not in (int, float) or not 0 < rate < math.inf):
        raise InputError("%s: images_per_second of '%s' must be a number above 0" % (place, found))
    return rate


def _text(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ','.join(map(str, value)) if isinstance(value, list) else str(value)


def _table(values: Any, rows: Dict[str, Row], path: str) -> StudyTable:
    _check(values, TABLE_KINDS, path + ': tables')
    if set(values) != set(TABLE_KINDS):
        raise InputError('%s: tables: each wants %s' % (path, ', '.join(TABLE_KINDS)))
    number, group = values['table'], values['group']
    known = {cell.row for cell in paper.CELLS if (cell.table, cell.group) == (number, group)}
    for row, ours in values['rows'].items():
        if row not in known:
            raise InputError("%s: Table %d, '%s', has no row '%s'%s" % (path, number, group, row, did_you_mean(row, known)))
        if not isinstance(ours, str) or ours not in rows:
            raise InputError("%s: Table %d: '%s' is no row of the study" % (path, number, ours))
    return StudyTable(number, group, values['rows'])
