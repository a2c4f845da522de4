"""The published logs, against numbers read off their last lines by hand, and damaged variants of their formats."""

import subprocess
import sys

import pytest

from gluon_bot.report.place import place
from gluon_bot.runs import read as reading
from gluon_bot.runs.gluoncv_log import LogReader


def read(text):
    notes = []
    reader = LogReader('a.log', lambda number, note: notes.append((number, note)))
    for number, line in enumerate(text.split('\n'), 1):
        reader.feed(number, line)
    reader.finish()
    return reader.runs, notes


@pytest.fixture
def published(shared_data):
    def read_log(name):
        return read((shared_data / 'gluoncv-logs' / name).read_text(encoding='utf-8'))
    return read_log


@pytest.mark.parametrize('name, epochs, values', [
    # `tail -3`: [Epoch 119] speed: 5051 samples/sec  time cost: 262.886739, validation: err-top1=0.215302 err-top5=0.057418
    ('resnet50_v1d', 120, {'val_top1': 78.4698, 'val_top5': 94.2582, 'seconds': 262.886739, 'images_per_second': 5051}),
    # [Epoch 199] validation: err-top1=0.209204 err-top5=0.054528
    ('resnet50_v1d-mixup', 200, {'val_top1': 79.0796, 'val_top5': 94.5472, 'seconds': 270.611126}),
    # [Epoch 119] validation: err-top1=0.223374 err-top5=0.062161
    ('resnet50_v1b', 120, {'val_top1': 77.6626, 'val_top5': 93.7839}),
    # [Epoch 119] validation: err-top1=0.226662 err-top5=0.063795
    ('resnet50_v1', 120, {'val_top1': 77.3338, 'val_top5': 93.6205}),
    # training: err-top1=0.201445 err-top5=0.067692 loss=0.815086, validation: err-top1=0.245160 err-top5=0.072760
    ('resnet50_v1-baseline-2018', 150, {'val_top1': 75.484, 'val_top5': 92.724, 'train_top1': 79.8555, 'loss': 0.815086}),
    # [Epoch 199] validation: err-top1=0.219786 err-top5=0.060288
    ('inceptionv3-mixup', 200, {'val_top1': 78.0214, 'val_top5': 93.9712}),
    # [Epoch 199] validation: err-top1=0.269212 err-top5=0.088329
    ('mobilenet1.0-mixup', 200, {'val_top1': 73.0788, 'val_top5': 91.1671}),
])
def test_last_lines_of_classification_logs(published, name, epochs, values):
    (run,), notes = published('classification/imagenet/%s.log' % name)
    assert run.task == 'classify' and run.data == {'name': 'imagenet'} and sorted(run.epochs) == list(range(1, epochs + 1))
    assert {key: run.epochs[epochs][key] for key in values} == values


def test_last_lines_of_the_detection_log(published):
    (run,), notes = published('detection/faster_rcnn_resnet50_v1b_voc_train.log')
    last = run.epochs[20]
    assert run.task == 'detect' and run.data == {'name': 'voc'} and len(run.epochs) == 20 and notes == []
    assert last['val_map'] == 77.659679  # mAP=0.7765967923775811
    assert len(last['val_ap']) == 20
    assert last['val_ap']['aeroplane'] == 79.412933 and last['val_ap']['tvmonitor'] == 76.588038
    assert last['training_seconds'] == 1326.142 and last['loss'] == 0.298  # 0.045 + 0.030 + 0.101 + 0.122
    assert run.recipe['model'] == 'resnet50b' and run.recipe['short_side'] == 600 and run.recipe['lr_decay_epochs'] == [14]


def test_the_segmentation_log_holds_two_runs_and_their_final_evaluations_are_no_epoch(published):
    runs, notes = published('segmentation/fcn_resnet50_voc.log')
    assert [(run.task, run.data, run.recipe) for run in runs] == [('segment', {'classes': 21}, {'epochs': 50})] * 2
    assert [len(run.epochs) for run in runs] == [50, 50]
    assert runs[0].epochs[50] == {'loss': 0.128, 'val_pixel_accuracy': 89.9, 'val_miou': 67.9}
    assert runs[1].epochs[50] == {'loss': 0.141, 'val_pixel_accuracy': 85.2, 'val_miou': 63.4}
    # the last line of the file repeats the score as one of an epoch 0; line 505 breaks off at 99 %, 506 is whole
    assert runs[1].epochs[1] == {'loss': 0.192, 'val_pixel_accuracy': 84.0, 'val_miou': 58.5}


def test_arguments_become_fields_of_the_recipe(published):
    (run,), _ = published('classification/imagenet/resnet50_v1d-mixup.log')
    assert run.recipe == {
        'model': 'resnet50d', 'image_size': 224, 'epochs': 200, 'batch_size': 1024, 'base_lr': 0.1, 'lr_schedule': 'cosine',
        'warmup_epochs': 5, 'momentum': 0.9, 'weight_decay': 0.0001, 'zero_gamma': True, 'no_bias_decay': True,
        'precision': 'float16', 'label_smoothing': 0.1, 'mixup_alpha': 0.2}


def test_the_variant_of_2018_states_less(published):
    (run,), _ = published('classification/imagenet/resnet50_v1-baseline-2018.log')
    assert run.recipe == {'model': 'resnet50', 'epochs': 150, 'batch_size': 256, 'base_lr': 0.1, 'momentum': 0.9,
                          'weight_decay': 0.0001, 'lr_decay_epochs': [30, 60, 90], 'lr_decay_factor': 0.1}


def test_training_accuracy_of_smoothed_targets_is_left_out(published):
    (run,), notes = published('classification/imagenet/resnet50_v1b.log')
    assert not any('train_top1' in values for values in run.epochs.values())
    assert [number for number, _ in notes] == [0] and '74 % in epoch 1, where validation has 5 %' in notes[0][1]


HEADER = ("Namespace(batch_size=%d, lr=0.1, lr_mode='step', lr_decay_epoch='2', model='resnet50_v1', num_epochs=3, "
          'num_gpus=4, resume_epoch=%d)')


def lines(first, last, error=0.5):
    return '\n'.join('[Epoch %d] training: accuracy=0.400000\n[Epoch %d] speed: 500 samples/sec\ttime cost: 60.000000\n'
                     '[Epoch %d] validation: err-top1=%.6f err-top5=0.100000' % (n, n, n, error) for n in range(first, last))


def top1(run):
    return [values.get('val_top1') for _, values in sorted(run.epochs.items())]


def test_a_restart_goes_on_with_the_same_run():
    runs, notes = read('\n'.join([HEADER % (64, 0), lines(0, 2, 0.5), HEADER % (64, 1), lines(1, 3, 0.3)]))
    assert len(runs) == 1 and notes == [] and top1(runs[0]) == [50.0, 70.0, 70.0]


def test_a_run_begun_again_is_another_run():
    runs, _ = read('\n'.join([HEADER % (64, 0), lines(0, 2, 0.5), HEADER % (64, 0), lines(0, 3, 0.3)]))
    assert [top1(run) for run in runs] == [[50.0, 50.0], [70.0, 70.0, 70.0]]


def test_a_header_printed_twice_is_one_run_and_another_header_another():
    runs, _ = read('\n'.join([HEADER % (64, 0), HEADER % (64, 0), lines(0, 3), HEADER % (32, 0), lines(0, 1)]))
    assert [(run.recipe['batch_size'], len(run.epochs)) for run in runs] == [(256, 3), (128, 1)]


def test_epochs_without_arguments_are_nobodys():
    runs, notes = read(lines(0, 1) + '\n' + HEADER % (64, 0) + '\n' + lines(1, 3))
    assert [(bool(run.recipe), sorted(run.epochs)) for run in runs] == [(False, [1]), (True, [2, 3])]
    assert (1, 'an epoch before any arguments: whose it is cannot be known') in notes


@pytest.mark.parametrize('line', [
    '[Epoch 0] validation: err-top1=0.2', '[Epoch 0] validation: err-top1=0.20920', '[Epoch 0] validation: err-t',
    '[Epoch 0] validation: err-top1=nan', '[Epoch 0] validation: err-top1=1.500000',
    '[Epoch 0] validation: err-top1=0.2\x009204',
    '[Epoch 0] validation: err-top1=-0.200000', '[Epoch 99999999999999999999] validation: err-top1=0.200000',
    '[Epoch 0] validation: err-top1=inf'])
def test_a_number_that_is_cut_or_none_is_not_read(line):
    runs, notes = read(HEADER % (64, 0) + '\n' + line)
    assert all(values.get('val_top1') is None for run in runs for values in run.epochs.values())
    assert [number for number, _ in notes] == [2]


def test_cut_arguments_lose_the_one_the_cut_went_through():
    (run,), notes = read("Namespace(batch_size=64, lr=0.1, model='resnet50_v1', num_gpus=4, num_epochs=12")
    assert 'epochs' not in run.recipe and run.recipe['batch_size'] == 256 and len(notes) == 1


DETECTION = "Namespace(batch_size=4, dataset='voc', epochs=20, lr=0.001, lr_warmup=-1, network='resnet50_v1b', wd=0.0005)\n"


@pytest.mark.parametrize('table, expected', [
    ('cat=0.5\ndog=0.7\nmAP=0.6', 60.0),
    ('cat=0.5\ndog=nan\nmAP=0.5', 50.0),  # a class without objects
    ('cat=0.5\ndog=0.7\nmAP=0.61', None),  # not their mean
    ('mAP=0.6', None),
    ('cat=0.5\n[Epoch 4] Training cost: 3.000, A=1\nmAP=0.5', None),
])
def test_a_map_must_be_the_mean_of_its_classes(table, expected):
    (run,), notes = read(DETECTION + '[Epoch 3] Validation: \n' + table + '\n')
    assert run.epochs.get(4, {}).get('val_map') == expected
    assert (notes == []) == (expected is not None)


def test_a_table_of_classes_cut_in_a_number_gives_nothing():
    notes = []
    reader = LogReader('a.log', lambda *note: notes.append(note))
    for number, line in enumerate((DETECTION + '[Epoch 3] Validation: \ncat=0.5').split('\n'), 1):
        reader.feed(number, line)
    reader.feed(9, 'mAP=0.5', whole=False)
    assert reader.runs[0].epochs == {} and len(notes) == 1


@pytest.mark.parametrize('epoch', ['100000', '9' * 5000])
def test_an_epoch_beyond_all_bounds_is_left_out(epoch):
    (run,), notes = read(DETECTION + '[Epoch %s] Validation: \ncat=0.5\nmAP=0.5\n' % epoch)
    assert run.epochs == {} and len(notes) == 1


def test_hostile_arguments_are_text():
    runs, _ = read("Namespace(model='__import__(\"os\").system(\"x\")', batch_size=__import__('os'), num_gpus=4, "
                   'num_epochs=10**9)')
    assert runs[0].recipe == {'model': '__import__("os").system("x")'}
    assert read('Namespace(' + '(' * 60000)[0][0].recipe == {}


@pytest.mark.parametrize('line', ['Namespace(' + 'a=' * 30000 + "')", 'Namespace(' + ', a=(' * 12000,
                                  '1' * 60000, '1/1 ' * 15000, 'Train: ' + '1' * 50000, 'Epoch: [1]' * 6000])
def test_hostile_lines_are_read_to_their_end(line):
    """Two hundred of them in seconds; with a search that takes the square of a line's length they would take hours."""
    code = 'import sys; from gluon_bot.runs.gluoncv_log import LogReader; reader = LogReader("log", lambda *_: None); ' \
        'line = sys.stdin.read(); [reader.feed(number, line) for number in range(200)]'
    subprocess.run([sys.executable, '-c', code], input=line, text=True, timeout=300, check=True)


HOROVOD = '''INFO:root:Namespace(data_dir='~/imagenet', lr_mode='cosine', model='resnet50_v1d', num_epochs=2, wd=0.0001)
INFO:root:Epoch[0] Rank[0] Batch[40]\tSpeed: 900.00 samples/sec\taccuracy=0.100000\ttop_k_accuracy_5=0.200000
INFO:root:Epoch[0] Rank[1]\tValidation-accuracy=0.900000\tValidation-top_k_accuracy_5=0.900000
INFO:root:Epoch[0] Rank[0]\tTraining-accuracy=0.2
INFO:root:Epoch[0] Rank[0]\tTime cost=100.5
INFO:root:Epoch[0] Rank[0]\tValidation-accuracy=0.400000\tValidation-top_k_accuracy_5=0.700000
INFO:root:Epoch[1] Rank[0]\tValidation-accuracy=0.500000\tValidation-top_k_accuracy_5=0.75'''
MODULE = '''INFO:root:start with arguments Namespace(batch_size=256, lr=0.1, network='resnet', num_epochs=3, num_layers=50)
INFO:root:Epoch[0] Batch [20]\tSpeed: 500.00 samples/sec\taccuracy=0.100000
INFO:root:Epoch[0] Train-accuracy=0.300000
INFO:root:Epoch[0] Time cost=100.0
INFO:root:Epoch[0] Validation-accuracy=0.400000
INFO:root:Epoch[0] Validation-top_k_accuracy_5=0.700000
'''


def read_text(tmp_path, text):
    path = tmp_path / 'x.log'
    path.write_text(text)
    return reading.read([str(path)])


def test_the_log_of_gluoncvs_script_for_horovod(tmp_path):
    (run,), notes = read_text(tmp_path, HOROVOD)
    assert (run.task, run.recipe['model'], run.recipe['epochs']) == ('classify', 'resnet50d', 2)
    assert run.epochs == {1: {'train_top1': 20, 'training_seconds': 100.5, 'val_top1': 40, 'val_top5': 70},
                          2: {'val_top1': 50}}
    assert any("'Validation-top_k_accuracy_5=0.75' is cut" in note for note in notes)
    assert 'batch_size' not in run.recipe and 'base_lr' not in run.recipe  # the number of workers is not stated


def test_the_log_of_module_fit(tmp_path):
    (run,), _ = read_text(tmp_path, MODULE)
    assert (run.task, run.recipe['model']) == ('classify', 'symbol resnet-50')
    assert run.epochs == {1: {'train_top1': 30, 'training_seconds': 100, 'val_top1': 40, 'val_top5': 70}}


@pytest.mark.parametrize('text', [HOROVOD, MODULE])
def test_colours_of_a_terminal_are_left_out(tmp_path, text):
    coloured = ''.join('\x1b[32m%s\x1b[0m\n' % line.replace(':root:', ':root:\x1b[1;31m') for line in text.splitlines())
    assert read_text(tmp_path, coloured).runs[0].epochs[1]['val_top5'] == 70


@pytest.mark.parametrize('argument, value, difference', [
    ('use_gn', 'True', True), ('use_se', 'True', True), ('batch_norm', 'True', True), ('model_zoo', "'other'", 'other'),
    ('drop_path', '0.3', 0.3), ('temperature', '5.0', 5.0), ('use_gn', 'False', None), ('crop_ratio', '0.875', None),
    ('num_workers', '60', None), ('save_dir', "'x'", None), ('warmup_lr', '0.0', None), ('drop_path', '0.0', None),
    ('drop_path', 'None', None)])
def test_an_argument_that_no_recipe_has_is_a_difference(tmp_path, argument, value, difference):
    text = HOROVOD.replace('wd=0.0001', '%s=%s, wd=0.0001' % (argument, value)).replace('v1d', 'v1b')
    (run,), _ = read_text(tmp_path, text)
    placed = place(run, 'x')
    assert placed.kind == 'published' and \
        {name: stated for name, stated, _ in placed.differences}.get(argument) == difference


def test_the_log_of_gluoncvs_script_for_cifar(tmp_path):
    found = read_text(tmp_path, "Namespace(batch_size=128, model='cifar_resnet20_v1', num_epochs=200, num_gpus=1, lr=0.1)\n"
                                'INFO:root:[Epoch 0] train=0.402744 val=0.536500 loss=1.617331 time: 15.512345\n')
    assert found.runs[0].epochs == {1: {'train_top1': 40.2744, 'val_top1': 53.65, 'loss': 1.617331, 'seconds': 15.512345}}


@pytest.mark.parametrize('losses, total', [
    ('CrossEntropy=6.221, SmoothL1=2.581', 8.802),
    ('ObjLoss=30.100, BoxCenterLoss=4.100, BoxScaleLoss=5.500, ClassLoss=20.100', 59.8),
    ('RPN_Conf=0.100,RPN_SmoothL1=0.100,RCNN_CrossEntropy=0.200,RCNN_SmoothL1=0.200,RCNN_Mask=0.300', 0.9),
    ('RPN_Conf=0.100,RPN_SmoothL1=0.100,RCNN_CrossEntropy=0.200', None)])  # cut
def test_the_losses_of_each_detector(losses, total):
    runs, notes = read('[Epoch 0] Training cost: 250.113, %s\n' % losses)
    assert [run.epochs[1]['loss'] for run in runs] == ([total] if total else [])
    assert any('cut or damaged' in note for _, note in notes) == (total is None)


def test_metrics_of_coco_are_named():
    assert read('[Epoch 2] Validation: \n~~~~ Summary metrics ~~~~\n')[1] == [
        (2, 'epoch 3 has the metrics of COCO, which are not read')]


@pytest.mark.parametrize('line, whose', [
    ('1563/1563 [==============================] - 45s 28ms/step - loss: 1.5 - val_accuracy: 0.5', 'a log of Keras'),
    ('782/782 \u2501\u2501\u2501\u2501 5s 3ms/step - accuracy: 0.4', 'a log of Keras'), ('Epoch 1/10', 'a log of Keras'),
    ('Train: 0 [   0/1251 (  0%)]  Loss: 6.95 (6.95)', 'a log of timm'), ('epoch,train_loss,eval_top1', 'a table of timm'),
    ('Epoch: [0]  [    0/5005]  eta: 2:03:10  lr: 0.1', "a log of torchvision or of PyTorch's example"),
    (' *   Acc@1 12.374 Acc@5 30.123', "a log of torchvision or of PyTorch's example"),
    ('Epoch 0: 100%|####| 938/938 [00:10<00:00]', 'a log of PyTorch Lightning'),
    ('Epoch[0] Validation-mse=0.220000', 'a log of Module.fit without accuracy')])
@pytest.mark.parametrize('header', ['', "Namespace(model='resnet50', epochs=90, lr=0.1)\n"])
def test_the_logs_of_other_programs_are_named(tmp_path, header, line, whose):
    notes = read_text(tmp_path, header + line + '\n').notes
    assert len(notes) == 1 and 'it looks like %s' % whose in notes[0] and notes[0].endswith(', which is not read')


def test_json_without_an_event_is_not_called_damaged(tmp_path):
    assert 'JSON without an event, left out' in read_text(tmp_path, '{"loss": 0.5, "epoch": 1.0}\n').notes[1]
