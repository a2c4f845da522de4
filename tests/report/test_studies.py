"""Studies in the report: gains over seeds by hand, verdicts, what is no run of the study, and that no cell is filled."""

import json
import statistics
from io import BytesIO

import pytest
from PIL import Image

from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.study import read_study
from gluon_bot.report import gains, html, markdown, report, studies, study_wording
from gluon_bot.report.compare import as_json, compare
from gluon_bot.report.statistics import gain
from gluon_bot.runs.read import read

STUDY = read_study('imagenette-64')
DATA = {'name': 'imagenette', 'classes': 10, 'train_images': 3000, 'val_images': 3000,
        'train_sha256': 'a', 'val_sha256': 'b'}
STUDENT_95 = {1: 12.706, 2: 4.303, 3: 3.182}  # two-sided, by degrees of freedom, from a printed table


def write(folder, row, seed, top1, seconds=18.0, data=DATA, study=STUDY, **header):
    """A record of one run of the study, as the trainer writes it."""
    recipe = study.rows[row].of_seed(seed)
    path = folder / ('%s-%d-%s.jsonl' % (row, seed, data['train_sha256']))
    start = {'event': 'start', 'task': 'classify', 'recipe': as_dict(recipe), 'data': data, 'limit': 3000, 'world_size': 1,
             'accumulate': 1, 'device': 'cpu(0)', 'precision': 'bfloat16', **header}
    lines = [start] + [{'event': 'epoch', 'epoch': epoch, 'step': epoch, 'seconds': seconds + 6,
                        'training_seconds': seconds, 'images_per_second': 3000 / seconds,
                        'val_top1': top1 if epoch == recipe.epochs else 10.0} for epoch in (1, recipe.epochs)]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines + [{'event': 'done', 'step': recipe.epochs}]))
    return path


def compared(folder):
    return compare(*read([str(folder)]), [STUDY])


def of(found, table, row, group='ResNet-50-D'):
    return next(one for one in found.results
                if (one.cell.table, one.cell.row, one.cell.group, one.cell.metric) == (table, row, group, 'val_top1'))


@pytest.fixture
def ladder(tmp_path):
    """Three seeds of two rows, two of a third, one of a fourth."""
    folder = tmp_path / 'logs'
    folder.mkdir()
    values = {'t6-efficient': (69.0, 70.0, 69.5), 't6-cosine': (76.0, 77.5, 76.9), 't6-smooth': (76.1, 77.1),
              't6-mixup': (78.0,)}
    for row, tops in values.items():
        for seed, top1 in enumerate(tops):
            write(folder, row, seed, top1)
    return folder


def test_gains_are_paired_by_seed(ladder):
    found, = compared(ladder).studies
    cosine = of(found, 6, '+ cosine decay')
    differences = [7.0, 7.5, 7.4]
    error = statistics.stdev(differences) / 3 ** 0.5
    assert cosine.claimed == 0.75 and cosine.gain.n == 3
    assert cosine.gain.mean == pytest.approx(7.3) and cosine.gain.standard_error == pytest.approx(error)
    assert cosine.gain.low == pytest.approx(7.3 - STUDENT_95[2] * error, abs=1e-3)
    assert cosine.gain.verdict == 'reproduced in sign'
    smooth = of(found, 6, '+ label smoothing')  # 0.1 and -0.4: -0.15 with an error of 0.25
    assert smooth.gain.mean == pytest.approx(-0.15)
    assert smooth.gain.high == pytest.approx(-0.15 + STUDENT_95[1] * 0.25, abs=1e-3)
    assert smooth.gain.verdict == 'not distinguishable' and smooth.parent.row == '+ cosine decay'
    mixup = of(found, 6, '+ mixup w/o distill')
    assert mixup.gain.low is None and mixup.claimed == 0.84
    assert study_wording.verdict(mixup) == 'one pair of runs, no verdict'
    assert of(found, 6, '+ distill w/ mixup').gain is None and of(found, 6, 'efficient').parent is None
    assert of(found, 4, '+ FP16', 'batch 1024').values == [(0, 69.0), (1, 70.0), (2, 69.5)]  # the same runs as Table 6's
    assert len(found.runs) == 9 and found.data == 'imagenette (3,000 + 3,000 images, 10 classes)'


def test_a_gain_on_the_other_side_is_opposite(tmp_path):
    for seed, top1 in enumerate((70.0, 71.0)):
        write(tmp_path, 't4-zero-gamma', seed, top1)
        write(tmp_path, 't4-no-bias-decay', seed, top1 + 1 + seed / 100)  # the paper has -0.34
    found, = compared(tmp_path).studies
    result = of(found, 4, '+ no bias decay', 'batch 1024')
    assert result.claimed == -0.34 and result.gain.verdict == 'opposite'
    assert study_wording.cells_of(result)["Paper's gain"] == '-0.34 †'


def test_what_is_no_run_of_the_study(ladder, tmp_path):
    """Others are shown as other data; another packing of the data is a study of its own."""
    write(ladder, 't6-cosine', 5, 99.0, limit=100)
    write(ladder, 't6-cosine', 6, 99.0, world_size=2)
    write(ladder, 't6-cosine', 7, 99.0, accumulate=2)
    write(ladder, 't6-cosine', 8, 99.0, init={'name': 'x'})
    path = write(ladder, 't6-cosine', 9, 99.0)  # unfinished
    path.write_text(''.join(path.read_text().splitlines(True)[:2]))
    other = write(ladder, 't6-cosine', 0, 99.0, data={**DATA, 'train_sha256': 'c'})
    comparison = compared(ladder)
    found, another = comparison.studies
    assert [value for _, value in of(found, 6, '+ cosine decay').values] == [76.0, 77.5, 76.9]
    assert [one.run.source for one in another.runs] == [str(other)]
    assert {one.run.recipe['seed'] for one in comparison.of('other data')} == {5, 6, 7, 8, 9}


TREE = {'name': 'voc-layout', 'classes': 10, 'train_images': 300, 'val_images': 100}


def tuned(folder, row, seed, score, data=TREE, **backbone):
    """A record of a run of the study that detects, from its base network of the study or as `backbone` says."""
    recipe, base = STUDY.rows[row].of_seed(seed), STUDY.rows[STUDY.rows[row].needs].recipe
    start = {'event': 'start', 'task': 'detect', 'recipe': as_dict(recipe), 'data': data, 'world_size': 1, 'accumulate': 1,
             'device': 'cpu(0)', 'precision': 'float32', 'limit': None,
             'backbone': {'recipe': base.name, 'data': 'imagenette', **backbone}}
    lines = [start, {'event': 'epoch', 'epoch': recipe.epochs, 'step': 9, 'val_map': score}, {'event': 'done', 'step': 9}]
    (folder / ('%s-%d-%s.jsonl' % (row, seed, data['name']))).write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_fine_tuned_rows_are_of_one_study_and_one_tree(tmp_path):
    for seed in (0, 1):
        write(tmp_path, 'b-standard', seed, 50.0)
        tuned(tmp_path, 'detect-b-standard', seed, 40.0)
        tuned(tmp_path, 'detect-d-all', seed, 77.0, data={**TREE, 'name': 'voc'})
    tuned(tmp_path, 'detect-d-all', 2, 99.0, recipe='resnet50d-distill-mixup')  # trained at another scale
    other = read_study('imagenette-160')
    first, second = compare(*read([str(tmp_path)]), [STUDY, other]).studies
    assert {first.study.name, second.study.name} == {'imagenette-64'}
    assert len(first.runs) == 4 and len(second.runs) == 2 and not first.gains and not second.gains
    assert second.data == 'base networks of imagenette, voc (300 + 100 images, 10 classes)'
    for seed in (0, 1):
        tuned(tmp_path, 'detect-d-all', seed, 88.0, data={**TREE, 'sha256': 'of another tree'})
    first, second, third = compare(*read([str(tmp_path)]), [STUDY, other]).studies
    assert not first.gains and not second.gains and not third.gains
    for seed in (0, 1):
        tuned(tmp_path, 'detect-d-all', seed, 45.0 + seed)
    first, second = compare(*read([str(tmp_path)]), [STUDY, other]).studies
    assert [(result.cell.row, result.gain.mean) for result in first.gains] == [('+ distill w/ mixup', 5.5)]
    assert first.all_data.endswith('; fine-tuned on voc-layout (300 + 100 images, 10 classes)')
    assert first.all_data in markdown.study_glance(first, 'x')


def test_seeds_that_were_added_are_told_with_what_the_studys_own_say(ladder):
    """A seed that is added until an interval excludes zero would make a 95 % interval of it that is none."""
    found, = compared(ladder).studies
    assert of(found, 6, '+ cosine decay').planned is None
    write(ladder, 't6-efficient', 3, 70.0)
    write(ladder, 't6-cosine', 3, 77.1)
    found, = compared(ladder).studies
    cosine = of(found, 6, '+ cosine decay')
    assert cosine.gain.n == 4 and cosine.planned.differences == pytest.approx((7.0, 7.5, 7.4))
    assert study_wording.cells_of(cosine)['Verdict'] == \
        "reproduced in sign by the study's own 3 seeds (+6.64 to +7.96); reproduced in sign with those added"
    assert study_wording.cells_of(cosine)['Pairs'] == '3+1'
    write(ladder, 't6-cosine', 1, 90.0)
    noisy = of(compared(ladder).studies[0], 6, '+ cosine decay')
    assert study_wording.verdict(noisy) == noisy.planned.verdict == 'not distinguishable'
    for own, told in ((1, 'one pair of runs'), (0, 'no pair of runs')):  # whoever adds seeds decides nothing by them alone
        for seed in range(own, 3):
            for path in ladder.glob('t6-cosine-%d-*' % seed):
                path.unlink()
            write(ladder, 't6-efficient', seed + 4, 70.0)
            write(ladder, 't6-cosine', seed + 4, 77.0 + seed)
        few = of(compared(ladder).studies[0], 6, '+ cosine decay')
        assert study_wording.cells_of(few)['Verdict'] == (
            "%s, no verdict by the study's own seeds; %s with those added" % (told, few.gain.verdict))
        assert study_wording.pairs(few).startswith('%d+' % own)


def test_what_is_missing_and_what_was_added_is_counted(ladder):
    assert study_wording.runs_text(compared(ladder).studies[0]) == '9 of its 62 runs'
    write(ladder, 't6-efficient', 3, 70.0)
    assert study_wording.runs_text(compared(ladder).studies[0]) == '9 of its 62 runs, and 1 that was added'
    for row in STUDY.runs():
        if row.row.command == 'train':
            write(ladder, row.row.name, row.seed, 70.0)
    own = sum(row.row.command == 'train' for row in STUDY.runs())
    assert study_wording.runs_text(compared(ladder).studies[0]) == '%d of its 62 runs, and 1 that was added' % own


def test_intervals_are_also_taken_together(ladder):
    """By the differences: cosine's p is 0.0004; smoothing's, of 0.1 and -0.4, 0.66."""
    found = compared(ladder).studies[0]
    told = study_wording.together_text(found)
    assert told == ("Each interval is of 95 % by itself; of these 2 taken together, by Holm's correction, "
                    'only + cosine decay of Table 6 (top-1) excludes zero.')
    assert told in markdown.study(found) and told in markdown.study_glance(found, 'x.png')
    for path in ladder.glob('t6-smooth*'):
        path.unlink()
    assert study_wording.together_text(compared(ladder).studies[0]) == ''


def test_precision_is_a_trick_where_the_recipes_differ_in_it(tmp_path):
    """Float16 that was computed in float32 shows nothing of it."""
    for seed, precision in ((0, 'float32'), (1, 'bfloat16')):
        write(tmp_path, 't4-no-bias-decay', seed, 70.0, precision='float32')
        write(tmp_path, 't6-efficient', seed, 71.0 + seed, precision=precision)
    found, = compared(tmp_path).studies
    assert of(found, 4, '+ FP16', 'batch 1024').gain.differences == (2.0,)


def test_a_teacher_is_the_rows_trained_to_its_end_on_the_same_data(tmp_path):
    base = STUDY.rows['teacher-smooth'].recipe.name
    for seed, more in enumerate(({}, {'epoch': 32}, {'epoch': 31}, {'data': 'digits'}, {'data': DATA['name'], 'epoch': 32})):
        write(tmp_path, 't6-distill', seed, 70.0, teacher={'recipe': base, **more})
    write(tmp_path, 'teacher-smooth', 0, 66.0)
    found, = compared(tmp_path).studies
    assert [seed for seed, _ in of(found, 6, '+ distill w/o mixup').values] == [0, 1, 4]
    assert study_wording.needed_text(found) == \
        'Rows that others learn from: teacher-smooth reaches a top-1 of 66.00 (1 run).'
    assert study_wording.needed_text(found) in markdown.study(found)
    without = STUDY.__class__(**{**vars(STUDY), 'tables': ()})
    assert study_wording.needed_text(compare(*read([str(tmp_path)]), [without]).studies[0]).endswith(
        ' Rows of no table: t6-distill reaches a top-1 of 70.00 (3 runs).')


def test_pairs_are_of_one_precision(ladder):
    """A recipe of float16 that some CPU computed in float32 is not held against one in bfloat16."""
    write(ladder, 't6-cosine', 1, 77.5, precision='float32')
    found, = compared(ladder).studies
    assert of(found, 6, '+ cosine decay').gain.differences == pytest.approx((7.0, 7.4))
    assert len(of(found, 6, '+ cosine decay').values) == 3
    for seed in (0, 2):
        write(ladder, 't6-cosine', seed, 77.5, precision='float32')
    found, = compared(ladder).studies
    assert of(found, 6, '+ cosine decay').gain is None and study_wording.verdict(of(found, 6, '+ cosine decay')) == '-'


@pytest.mark.parametrize('odd', ['runs/digits', [], {}, {'recipe': ['x']}, None, 5])
def test_headers_of_any_type_are_no_traceback(tmp_path, odd):
    tuned(tmp_path, 'detect-b-standard', 0, 40.0)
    write(tmp_path, 't6-distill', 0, 50.0, teacher=odd, cpus=odd, omp_threads=odd, precision=odd)
    write(tmp_path, 't4-small', 0, 50.0, cpus=odd)
    path = tmp_path / 'detect-b-standard-0-voc-layout.jsonl'
    start, *rest = path.read_text().splitlines()
    for change in ({'backbone': odd}, {'data': {**TREE, 'name': odd, 'train_images': odd}}):
        path.write_text('\n'.join([json.dumps({**json.loads(start), **change}), *rest]))
        markdown.markdown(compared(tmp_path))
    random = tmp_path / 'random.json'
    random.write_text(json.dumps({'title': 'x', 'seeds': [0], 'rows': {'r': {'recipe': 'scenes-detection', 'settings': 'r'}},
                                  'settings': {'r': {'pretrained': False}}}))
    start_of_row = {**json.loads(start), 'recipe': as_dict(read_study(str(random)).rows['r'].recipe), 'backbone': odd}
    path.write_text('\n'.join([json.dumps(start_of_row), *rest]))
    assert compare(*read([str(path)]), [read_study(str(random))]).studies
    without = json.loads(start)
    del without['recipe']['backbone']
    path.write_text('\n'.join([json.dumps(without), *rest]))
    markdown.markdown(compared(tmp_path))


def test_the_order_of_settings_does_not_matter(ladder):
    path = ladder / 't6-cosine-0-a.jsonl'
    text = path.read_text()
    path.write_text(text.replace('+image_size=64+base_lr=0.4', '+base_lr=0.4+image_size=64'))
    assert path.read_text() != text
    found, = compared(ladder).studies
    assert len(of(found, 6, '+ cosine decay').values) == 3


def test_no_cell_of_the_paper_is_filled(ladder):
    comparison = compared(ladder)
    assert not any(result.filled or result.nearby for result in comparison.results)
    assert comparison.counts() == compare([]).counts() and not any(delta.gain for delta in comparison.deltas)


def test_time_is_table_3_in_small(tmp_path):
    for seed, (efficient, baseline) in enumerate([(12.0, 30.0), (14.0, 32.0), (50.0, 34.0)]):
        write(tmp_path, 't6-efficient', seed, 70.0, efficient)
        write(tmp_path, 't4-small', seed, 71.0, baseline, precision='float32')
    found, = compared(tmp_path).studies
    time, = found.times
    assert time.minutes == pytest.approx(14 / 60) and time.parent_minutes == pytest.approx(32 / 60)
    assert time.claimed == pytest.approx(4.4 / 13.3)
    assert (time.with_evaluation, time.parent_with_evaluation) == pytest.approx((20 / 60, 38 / 60))
    assert 'as in Table 3: 0.23 efficient and 0.53 baseline, a ratio of 0.44 where the paper has 0.33 (ResNet-50); with ' \
        'the evaluation 0.33 and 0.63.' in study_wording.times_text(found)
    assert of(found, 3, 'efficient', 'ResNet-50').gain.mean == -1.0
    assert found.machines == '1 x cpu(0) in bfloat16, 1 x cpu(0) in float32'


def test_time_is_of_runs_that_can_be_compared(tmp_path):
    """Twice the threads, or float32 where the recipe says float16, is not what Table 3 compares."""
    write(tmp_path, 't6-efficient', 0, 70.0, 5.0, cpus=2, omp_threads=2)
    write(tmp_path, 't6-efficient', 1, 70.0, 40.0, cpus=2, omp_threads=1, precision='float32')
    write(tmp_path, 't4-small', 0, 70.0, 30.0, cpus=2, omp_threads=1, precision='float32')
    assert compared(tmp_path).studies[0].times == ()
    for seed, seconds in ((2, 12.0), (3, 15.0)):
        write(tmp_path, 't6-efficient', seed, 70.0, seconds, cpus=2, omp_threads=1)
    write(tmp_path, 't4-small', 1, 70.0, 20.0, cpus=2, omp_threads=2, precision='float32')
    time, = compared(tmp_path).studies[0].times
    assert (time.minutes, time.parent_minutes) == pytest.approx((13.5 / 60, 30 / 60))


def test_pages_show_it(ladder):
    comparison = compared(ladder)
    for text in (markdown.markdown(comparison), markdown.markdown(comparison, full=True)):
        assert '| + cosine decay (on efficient) | 77.91 | 76.80 ± 0.75 | 3 | +0.75 | +7.30 | +6.64 to +7.96 | 0.15 | 3 ' \
            '| reproduced in sign |' in text
        assert study_wording.SCALE in text and text.count('resnet50d-cosine+image_size') == 0
    page = html.page(comparison, report.drawing())
    wanted = ('Study imagenette-64', '+6.64 to +7.96', 'one pair of runs, no verdict', study_wording.SCALE.split("'")[0])
    assert [word for word in wanted if word not in page] == []
    told = json.loads(json.dumps(as_json(comparison)))['studies'][0]
    cosine = next(one for one in told['results'] if one['row'] == '+ cosine decay')
    assert cosine['gain']['n'] == 3 and cosine['paper_gain'] == 0.75 and len(told['runs']) == 9


def test_the_figure_fits_a_phone(ladder):
    found, = compared(ladder).studies
    image = Image.open(BytesIO(gains.figure(found, 'png')))
    assert image.width == 1000 and 400 < image.height < 1500
    assert gains.alternative_text(found).count('top-1') == len(found.gains) == 3
    assert gains.figure(studies.StudyReport(STUDY, '', (), (), (), {}, 0)) == b''


def test_update_renews_the_study_and_its_picture(ladder, tmp_path, monkeypatch):
    readme = tmp_path / 'README.md'
    readme.write_text('a\n%s\nold\n%s\nb\n%s\n%s\n' % (report.STUDY_BEGIN, report.STUDY_END, report.BEGIN, report.END))
    assert report.update_file(str(readme)) and not report.update_file(str(readme))
    text = readme.read_text()
    study, _, rest = text.partition(report.STUDY_END)
    assert '](docs/gains-imagenette-64.png)\n' in study and 'old' not in study and 'not run' not in study
    assert '| Table 6 · ResNet-50-D · top-1 | + cosine decay (on efficient) | +0.75 | +7.30 | +6.64 to +7.96 | 3 ' \
        '| reproduced in sign |' in study
    assert study.count('\n| Table 6') == 3 and rest.startswith('\nb\n')
    picture = tmp_path / 'docs' / 'gains-imagenette-64.png'
    assert picture.stat().st_size > 10000
    picture.unlink()
    assert not report.update_file(str(readme)) and picture.exists()
    readme.write_text(text.replace('reproduced in sign', 'reproduced'))
    with monkeypatch.context() as patch:  # matplotlib is missing
        patch.setattr(report, 'drawing', lambda: report.html.no_curves)
        assert report.update_file(str(readme)) and not picture.exists()  # it was of another text
    assert not report.update_file(str(readme)) and picture.exists()
    for row in ('t6-efficient', 't6-cosine'):
        write(ladder, row, 0, 70.0, data={**DATA, 'name': 'of others'})
    assert report.update_file(str(readme)) and (tmp_path / 'docs' / 'gains-imagenette-64-2.png').exists()
    assert '](docs/gains-imagenette-64-2.png)' in readme.read_text() and ', on of others (' in readme.read_text()
    page = tmp_path / 'docs' / 'results.md'
    page.write_text('%s\n%s\n' % (report.STUDY_BEGIN_EVERY, report.STUDY_END))
    assert report.update_file(str(page)) and not report.update_file(str(page))
    assert '| + mixup w/o distill (on + label smoothing) | 79.15 | 78.00 | 1 |' in page.read_text()
    assert study_wording.SCALE in page.read_text() and 'not run' in page.read_text()


def test_a_study_of_one_table_is_told_in_sentences(ladder, tmp_path):
    study = read_study('imagenette-64-resnet18')
    for row, tops in {'resnet18b': (66.0, 67.0), 'resnet18c': (66.9, 68.1), 'resnet18d': (70.0,)}.items():
        for seed, top1 in enumerate(tops):
            write(ladder, row, seed, top1, study=study)
    readme = tmp_path / 'README.md'
    readme.write_text('%s\n%s\n%s\n%s\n' % (report.STUDY_BEGIN, report.STUDY_END, report.BEGIN, report.END))
    assert report.update_file(str(readme))
    shown = readme.read_text().partition(report.STUDY_END)[0].split('`imagenette-64-resnet18`: ')
    assert shown[1] == (
        "Table 5's C and D in small once more, with ResNet-18 in place of ResNet-50; 5 of its 9 runs, on imagenette "
        '(3,000 + 3,000 images, 10 classes). ResNet-50-C (on ResNet-50-B) +1.00, by 2 pairs -0.27 to +2.27 (the paper '
        '+0.21): not distinguishable; ResNet-50-D (on ResNet-50-C) +3.10 (the paper +0.29): one pair of runs, no verdict.\n')
    assert '](docs/gains-imagenette-64.png)' in shown[0]
    assert [path.name for path in (tmp_path / 'docs').iterdir()] == ['gains-imagenette-64.png']


def test_the_steps_own_ratio(tmp_path):
    results = tmp_path / 'benchmarks' / 'results'
    results.mkdir(parents=True)
    assert study_wording.step_text(str(tmp_path), str(tmp_path / 'docs')) == ''
    rows = [{'model': 'resnet18d', 'precision': precision, 'batch_size': size, 'images_per_second': {'median': rate}}
            for precision, size, rate in (('bfloat16', 64, 12.5), ('float32', 16, 6.0))]
    (results / 'study-step.json').write_text(json.dumps({'rows': rows, 'processor': 'a CPU'}))
    assert study_wording.step_text(str(tmp_path), str(tmp_path / 'docs')) == (
        'The step alone, on one core of a CPU ([how](performance.md)): 12.5 images a second of resnet18d, bfloat16, batch '
        '64 and 6.0 of resnet18d, float32, batch 16, a ratio of 0.48.')
    (results / 'study-step.json').write_text('{')
    assert study_wording.step_text(str(tmp_path), str(tmp_path / 'docs')) == ''


def test_a_study_of_ones_own(ladder, tmp_path, capsys):
    path = tmp_path / 'mine.json'
    path.write_text(json.dumps({'extends': 'imagenette-64', 'title': 'mine | <b>'}))
    report.run([str(ladder)], str(tmp_path / 'out'), described=[str(path)])
    said = capsys.readouterr().out
    assert said.count('### The study') == 2 and 'mine ¦ ‹b›' in said
    assert 'mine | &lt;b&gt;' in (tmp_path / 'out' / 'report.html').read_text()


def test_equal_differences_are_not_called_one_pair():
    two = gain([(0, 71.0), (1, 72.0)], [(0, 70.0), (1, 71.0)], 0.4, same_data=False)
    one = gain([(0, 71.0)], [(0, 70.0)], 0.4, same_data=False)
    said = [study_wording.verdict(studies.StudyResult(None, 'row', [], None, 0.4, found, '')) for found in (two, one)]
    assert (two.n, two.low) == (2, None) and said == ['equal differences, no interval', 'one pair of runs, no verdict']
