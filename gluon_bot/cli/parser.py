"""Words and options of the command line: small, and frozen by a test."""

from __future__ import annotations

import argparse
import os
from typing import Any

from gluon_bot import InputError, __version__
from gluon_bot.cli.options import MOST, Parser, commands_of, minutes, seeds, share, whole

FOLDERS = ('DIR', 'OUT', 'RUN')  # as the help names arguments that are folders
EXIT_CODES = '''\
exit codes:
  0    done; a run that was finished before is left as it is
  1    the run failed, or the doctor found what stops one; it may be started again, mostly with --resume
  2    bad input or arguments: one line says what is wrong and what to do
  130  interrupted by Ctrl-C or SIGTERM; a training run writes its checkpoint first and continues with --resume;
       watch ends so with 0

Results go to standard output; progress and messages to standard error. There is no colour, with NO_COLOR or without.
'''


def _command(commands: Any, name: str, help_text: str, examples: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text, epilog='examples:\n' + examples,
                                 formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    return parser


def _workers(parser: argparse.ArgumentParser, restarts: bool) -> None:
    parser.add_argument('--workers', type=whole(1, 1024), metavar='N',
                        help='processes, one a GPU, on this machine or over '
                        '--hosts (default: 1, or as many as --hosts has)')
    parser.add_argument('--hosts', default='', metavar='NAME:N,...',
                        help='machines and their numbers of workers, through ssh')
    parser.add_argument('--stall-minutes', type=minutes, default=30.0, metavar='T',
                        help='a worker that does nothing for so long '
                        'counts as dead (default: 30)')
    parser.set_defaults(restarts=0)
    _device(parser)
    if restarts:
        parser.add_argument('--restarts', type=whole(0, 999), default=0, metavar='N', help='start again from the last '
                            'checkpoint, up to N times, when a worker dies (default: 0)')


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--checkpoint', dest='which', choices=('newest', 'best'), default='newest',
                        help="of a run's checkpoints; RUN/best in place of RUN is the best one everywhere (default: newest)")


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', choices=('cpu', 'gpu'), help='compute on the CPU, or fail without a GPU (default: a GPU '
                        'where MXNet is built for GPUs, which then must work)')


def _training(parser: argparse.ArgumentParser, data_help: str) -> None:
    parser.add_argument('recipe', metavar='RECIPE')
    parser.add_argument('--data', required=True, metavar='DIR', help=data_help)
    parser.add_argument('--out', required=True, metavar='RUN', help='folder for record, curves and checkpoints')
    parser.add_argument('--resume', action='store_true', help='go on from the newest good checkpoint in RUN, if any')
    parser.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', help='change a field of the recipe')
    parser.add_argument('--seed', type=whole(0, MOST), help='the same as --set seed=N')
    parser.add_argument('--accumulate', type=whole(1, MOST), default=1, metavar='N',
                        help='sum gradients over N small batches')
    parser.add_argument('--limit', type=whole(1, MOST), metavar='N',
                        help='train and evaluate on N images an epoch, for a trial')
    parser.add_argument('--log-every', type=whole(1, MOST), default=50, metavar='STEPS', help='(default: 50)')
    parser.add_argument('--keep', type=whole(1, MOST), default=3, metavar='K',
                        help='newest checkpoints kept, and the best (default: 3)')
    parser.add_argument('--tensorboard', action='store_true', help='also write TensorBoard event files')
    parser.add_argument('--dry-run', action='store_true',
                        help='check recipe, data, networks and RUN, say what would be done, and stop')
    _workers(parser, restarts=True)


def _lenient(parser: argparse.ArgumentParser, masks: bool = True) -> None:
    parser.add_argument('--skip-broken', action='store_true', help='leave out images that cannot be used, and say so')
    if masks:
        parser.add_argument('--ignore-label', type=whole(0, 255), metavar='N',
                            help='of unlabelled pixels in masks, besides 0')


def check_folders(options: argparse.Namespace) -> None:
    """InputError where a file was given for a folder."""
    for action in commands_of(parser())[options.command]._actions:
        value = getattr(options, action.dest, None)
        if action.metavar in FOLDERS and isinstance(value, str) and os.path.isfile(value):
            raise InputError('%s: is a file; %s wants a folder' % (value, (action.option_strings or (action.metavar,))[0]))


def _machine_commands(commands: Any) -> None:
    """doctor, recipes, models: what there is."""
    command = _command(commands, 'doctor', 'check what a run needs on this machine, and say how to get what is missing',
                       '  gluon-bot doctor\n  gluon-bot doctor --data data/imagenet --out runs\n')
    command.add_argument('--data', metavar='DIR', help='also check these records and how fast they are read')
    command.add_argument('--out', metavar='DIR', help='also check space and speed of the disk under this folder')
    command.add_argument('--json', action='store_true', help='as JSON')

    command = _command(commands, 'recipes', 'list the named runs of the paper, or one of them in full',
                       '  gluon-bot recipes\n  gluon-bot recipes resnet50d-mixup\n')
    command.add_argument('recipe', nargs='?', metavar='RECIPE')
    command.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', help='show it with this field changed')
    command.add_argument('--json', action='store_true', help='as JSON')

    command = _command(commands, 'models', "list parameters and FLOPs of every network beside the paper's",
                       '  gluon-bot models\n  gluon-bot models resnet50d resnet50_v1d\n')
    command.add_argument('model', nargs='*', metavar='MODEL', help="only these, by our names or GluonCV's")
    command.add_argument('--json', action='store_true', help='as JSON')


def _data_commands(commands: Any) -> None:
    """pack, verify: data."""
    command = _command(commands, 'pack', 'pack images into checked RecordIO files',
                       '  gluon-bot pack imagenette2-320 data/imagenette\n'
                       '  gluon-bot pack ~/ILSVRC2012 data/imagenet\n'
                       '  gluon-bot pack photographs data/mine --resize 480\n'
                       '  gluon-bot pack digits data/digits\n  gluon-bot pack scenes data/scenes\n')
    command.add_argument('source', metavar='SOURCE',
                         help="folder or tar with train/CLASS/*.jpg and val/CLASS/*.jpg, a folder "
                         "with the ILSVRC2012 tars, or the word 'digits' or 'scenes'")
    command.add_argument('out', metavar='OUT', help='folder for train.rec, val.rec, their .idx and manifests')
    command.add_argument('--name', help='name of the dataset in the manifest (default: from SOURCE)')
    command.add_argument('--resize', type=whole(1, MOST), metavar='PIXELS', help='scale larger images to this short side')
    command.add_argument('--quality', type=whole(1, MOST), default=95,
                         help='JPEG quality of images that are encoded again (default: 95)')
    command.add_argument('--seed', type=whole(0, MOST), default=0, help='of the random order of the records')
    command.add_argument('--workers', type=whole(1, 1024), help='processes (default: one a core)')
    command.add_argument('--validation-share', type=float, metavar='SHARE',
                         help='of each class, where SOURCE has no train and val (default: 0.1)')
    command.add_argument('--skip-broken', action='store_true', help='leave unreadable images out and list them')
    command.add_argument('--classes', metavar='FILE', help="names of the classes in records of MXNet's im2rec: a "
                         'list, or the folder of class folders')
    command.add_argument('--no-md5', action='store_true', help='do not compare the ILSVRC2012 tars with their published MD5')

    command = _command(commands, 'verify', 'check packed records, a VOC devkit or an ADE20K tree, file by file',
                       '  gluon-bot verify data/imagenette --picture imagenette.png\n'
                       '  gluon-bot verify VOCdevkit\n  gluon-bot verify ADEChallengeData2016\n')
    command.add_argument('path', metavar='PATH', help='folder of records, one .rec, or a tree')
    _lenient(command)
    command.add_argument('--picture', metavar='FILE', help='also draw training images as the network sees them, a PNG')
    command.add_argument('--workers', type=whole(1, 1024), help='processes (default: one a core)')


def _training_commands(commands: Any) -> None:
    """train, detect, segment, study: what trains."""
    command = _command(commands, 'train', 'train a recipe with one worker or several',
                       '  gluon-bot train digits --data data/digits --out runs/digits\n'
                       '  gluon-bot train resnet50d-cosine --data data/imagenette --out runs/trial --limit 640 \\\n'
                       '      --set epochs=2 --set warmup_epochs=0 --set batch_size=64\n'
                       '  gluon-bot train resnet50d-mixup --data data/imagenet --out runs/mixup --workers 8 --restarts 3\n')
    _training(command, 'folder made by gluon-bot pack')
    command.add_argument('--teacher', default='', metavar='CHECKPOINT', help='run or checkpoint to distil from')
    command.add_argument('--init', default='', metavar='WEIGHTS',
                         help="start from a .params file of GluonCV's model zoo, a .safetensors file of timm or "
                         'torchvision, or a run or checkpoint; a classifier of another number of classes is re-initialised')

    command = _command(commands, 'detect', 'fine-tune a classifier to Faster-RCNN on a VOC devkit',
                       '  gluon-bot detect voc-resnet50d-cosine --data VOCdevkit --out runs/voc \\\n'
                       '      --backbone runs/resnet50d-cosine --workers 4 --restarts 3\n'
                       '  gluon-bot detect scenes-detection --data data/scenes --out runs/boxes --backbone runs/digits '
                       '--workers 2\n')
    _training(command, 'VOC devkit, or a folder with one')
    _lenient(command, masks=False)
    command.add_argument('--backbone', default='', metavar='CHECKPOINT',
                         help="run or checkpoint of the recipe's base network")

    command = _command(commands, 'segment', 'fine-tune a classifier to an FCN on an ADE20K tree',
                       '  gluon-bot segment ade20k-resnet50d-cosine --data ADEChallengeData2016 --out runs/ade20k \\\n'
                       '      --backbone runs/resnet50d-cosine --workers 4 --restarts 3\n'
                       '  gluon-bot segment scenes-segmentation --data data/scenes --out runs/masks --backbone runs/digits '
                       '--workers 2\n')
    _training(command, 'ADEChallengeData2016, or a folder with it')
    _lenient(command)
    command.add_argument('--backbone', default='', metavar='CHECKPOINT',
                         help="run or checkpoint of the recipe's base network")

    command = _command(commands, 'study', 'train the rows of a study with seeds, one run at a time on each GPU',
                       '  gluon-bot study imagenette-64 --data data/imagenette --out runs/study --dry-run\n'
                       '  gluon-bot study imagenette-64 t6-efficient t6-cosine --data data/imagenette --out runs/study\n'
                       '  gluon-bot study my-study.json --data data/mine --out runs/mine --seeds 3,4 --at-once 2\n')
    command.usage = 'gluon-bot study STUDY [ROW ...] --data DIR --out DIR [options]'  # rows do not stand behind options
    command.add_argument('study', metavar='STUDY', help='the name of one that comes with the package (imagenette-64), '
                         'or a .json file')
    command.add_argument('rows', nargs='*', metavar='ROW', help='rows of it (default: all); those they need come first')
    command.add_argument('--data', required=True, metavar='DIR', help='folder made by gluon-bot pack')
    command.add_argument('--transfer-data', default='', metavar='DIR',
                         help='VOC devkit and ADE20K tree of the rows that detect and segment, or a folder with both')
    command.add_argument('--out', required=True, metavar='DIR', help='folder for the runs, ROW-seedN, and their logs; what '
                         'is finished there is skipped, the rest resumes from its newest checkpoint')
    command.add_argument('--seeds', type=seeds, default=(), metavar='N,N', help="(default: the study's)")
    command.add_argument('--at-once', type=whole(1, 1024), default=1, metavar='N',
                         help='without GPUs: train N runs at a time, each on its share of the cores (default: 1)')
    command.add_argument('--dry-run', action='store_true', help='check everything, say what would be run and how long it '
                         'takes, and stop')


def _checkpoint_commands(commands: Any) -> None:
    """evaluate, import, export, predict: what has or makes a checkpoint."""
    command = _command(commands, 'evaluate',
                       'compute the exact scores of a checkpoint: top-1 and top-5, mAP, or pixel accuracy and mIoU',
                       '  gluon-bot evaluate runs/digits --data data/digits\n'
                       '  gluon-bot evaluate runs/masks --data data/scenes --multi-scale\n')
    command.add_argument('checkpoint', metavar='CHECKPOINT',
                         help='a run folder (its newest checkpoint) or a checkpoint folder')
    command.add_argument('--data', required=True, metavar='SOURCE', help='of the kind the checkpoint was trained on; for a '
                         'classifier also a folder or tar of class folders, of all its classes or some')
    command.add_argument('--batch-size', type=whole(1, MOST), default=64, metavar='N',
                         help='images of one worker, for a classifier '
                         '(default: 64)')
    _lenient(command)
    command.add_argument('--multi-scale', action='store_true',
                         help='segmentation: the mean over six scales and their mirror '
                         'images')
    _which(command)
    command.add_argument('--per-class', action='store_true', help='a classifier: also the accuracy of each class')
    command.add_argument('--out', metavar='DIR',
                         help='a classifier: folder for per-class.csv, predictions.csv and confusion.png')
    command.add_argument('--predictions', default='', metavar='FILE', help='a classifier: a CSV file with a line an image')
    command.add_argument('--limit', type=whole(1, MOST), metavar='N', help='use N images only, for a trial')
    command.add_argument('--json', action='store_true', help='as JSON')
    _workers(command, restarts=False)

    command = _command(commands, 'import',
                       'make a checkpoint of weights of GluonCV, timm or torchvision, to evaluate or export it',
                       '  gluon-bot import resnet50_v1d-117a384e.params --model resnet50d --out runs/published\n'
                       '  gluon-bot import resnet152d.gluon_in1k.safetensors --model resnet152d --out runs/teacher\n')
    command.add_argument('file', metavar='FILE', help="a .params file of GluonCV's model zoo, or a .safetensors file of "
                         'timm or torchvision')
    command.add_argument('--model', required=True, metavar='MODEL',
                         help='its network, by the names of gluon-bot models or of GluonCV')
    command.add_argument('--out', required=True, metavar='RUN', help='folder for the checkpoint')
    command.add_argument('--data', metavar='DIR', help="packed records that name its classes (default: ImageNet's 1,000)")

    command = _command(commands, 'export', 'export a network for other programs: MXNet, ONNX or PyTorch (timm)',
                       '  gluon-bot export runs/digits --format onnx --out digits-onnx\n'
                       '  gluon-bot export runs/resnet50d-cosine --format timm --out resnet50d-timm\n')
    command.add_argument('checkpoint', metavar='CHECKPOINT',
                         help='a run folder (its newest checkpoint) or a checkpoint folder')
    _which(command)
    command.add_argument('--format', required=True, choices=('symbol', 'onnx', 'timm'),
                         help="MXNet's own files, ONNX, or PyTorch's as on the Hugging Face hub")
    command.add_argument('--out', required=True, metavar='DIR', help='folder for the files and their metadata.json')

    command = _command(commands, 'predict', 'predict on images with a checkpoint of any task, as text and pictures',
                       '  gluon-bot predict cat.jpg --checkpoint runs/imagenette --out pictures\n'
                       '  gluon-bot predict street/*.jpg --checkpoint runs/voc --out pictures '
                       '--score-threshold 0.7 --json\n')
    command.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    command.add_argument('--checkpoint', required=True, metavar='CHECKPOINT',
                         help='a run folder (its newest checkpoint) or a '
                         'checkpoint folder, of train, detect or segment')
    command.add_argument('--out', required=True, metavar='DIR', help='folder for the pictures, named after the images')
    command.add_argument('--score-threshold', type=share, default=0.5, metavar='SCORE',
                         help='least score of a box (default: 0.5)')
    _device(command)
    command.add_argument('--json', action='store_true', help='as JSON')


def _record_commands(commands: Any) -> None:
    """runs, watch, report: what reads records of runs."""
    command = _command(commands, 'runs', 'list runs: running, done, failed or stopped, with progress and scores',
                       '  gluon-bot runs runs\n  gluon-bot runs runs --csv > runs.csv\n')
    command.add_argument('folder', metavar='DIR', help='a run, or a folder with runs at any depth')
    formats = command.add_mutually_exclusive_group()
    formats.add_argument('--csv', action='store_true', help='as CSV, a line a run')
    formats.add_argument('--json', action='store_true', help='as JSON')

    command = _command(commands, 'watch', 'serve a page of a run that refreshes itself, for a browser on this machine',
                       '  gluon-bot watch runs/resnet50d-cosine\n  gluon-bot watch runs/resnet50d-cosine --port 8000\n')
    command.add_argument('run', metavar='RUN', help='its folder')
    command.add_argument('--port', type=whole(0, 65535), default=0, metavar='N', help='(default: any that is free)')

    command = _command(commands, 'report', "put records and logs beside the paper's tables",
                       '  gluon-bot report logs --out report\n  gluon-bot report runs/*/record.jsonl --json\n'
                       '  gluon-bot report --update README.md\n')
    command.add_argument('logs', nargs='*', metavar='LOG',
                         help="records of runs, logs of GluonCV's scripts, or folders of them")
    command.add_argument('--out', metavar='DIR', help='write report.html, report.md and report.json there')
    formats = command.add_mutually_exclusive_group()
    formats.add_argument('--csv', action='store_true', help='as CSV, a line for each number of the paper')
    formats.add_argument('--json', action='store_true', help='as JSON')
    command.add_argument('--study', action='append', default=[], metavar='STUDY',
                         help='also look for the runs of this .json file (those that come with the package always are)')
    command.add_argument('--update', metavar='FILE', help='renew the tables between the markers of a Markdown file')


def _other_commands(commands: Any) -> None:
    """benchmark, figures, completion."""
    command = _command(commands, 'benchmark',
                       'measure how fast this machine trains, reads, scales and evaluates',
                       '  gluon-bot benchmark step resnet50-efficient resnet50-baseline --set batch_size=32\n'
                       '  gluon-bot benchmark train resnet50d-mixup --data data/imagenet --set batch_size=128\n'
                       '  gluon-bot benchmark scaling resnet50-efficient --set batch_size=64 --workers 8\n')
    command.add_argument('what', choices=('step', 'data', 'train', 'scaling', 'evaluate', 'host'))
    command.add_argument('recipe', nargs='+', metavar='RECIPE')
    command.add_argument('--data', default='', metavar='DIR',
                         help='folder made by gluon-bot pack, for data, train and evaluate')
    command.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', help='change a field of the recipes')
    command.add_argument('--workers', type=whole(1, 64), default=1, metavar='N', help='scaling: over 1, 2, 4, ... up to N '
                         'workers of this machine (default: 1)')
    command.add_argument('--repeats', type=whole(1, 1000), default=5, metavar='N',
                         help='rounds, of which the median is shown '
                         '(default: 5)')
    _device(command)
    command.add_argument('--steps', type=whole(1, 100000), default=10, metavar='N', help='updates or batches in a round '
                         '(default: 10)')
    command.add_argument('--json', action='store_true', help='as JSON')

    command = _command(commands, 'figures', "draw the paper's figures from this code: blocks, schedule, smoothing, mixup",
                       '  gluon-bot figures --out figures\n')
    command.add_argument('--out', required=True, metavar='DIR', help='folder for the pictures')

    command = _command(commands, 'completion', 'print a script for completion of commands, options and recipes in a shell',
                       '  gluon-bot completion bash   # in ~/.bashrc: eval "$(gluon-bot completion bash)"\n'
                       '  gluon-bot completion zsh    # in ~/.zshrc, behind compinit: eval "$(gluon-bot completion zsh)"\n')
    command.add_argument('shell', choices=('bash', 'zsh'))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` is the name of the one chosen."""
    top = Parser(prog='gluon-bot', allow_abbrev=False, epilog=EXIT_CODES,
                  formatter_class=argparse.RawDescriptionHelpFormatter,
                  description='The recipes of "Bag of Tricks for Image Classification with CNNs" in Apache MXNet/Gluon.')
    top.add_argument('--version', action='version', version='gluon-bot ' + __version__)
    commands = top.add_subparsers(dest='command', metavar='COMMAND', required=True, parser_class=Parser)
    for add_to in (_machine_commands, _data_commands, _training_commands, _checkpoint_commands, _record_commands,
                   _other_commands):
        add_to(commands)  # in the order in which --help lists them
    return top
