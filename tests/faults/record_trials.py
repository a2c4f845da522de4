"""Damages the files of a data folder, one trial after the other, each looked at in a process of its own.

    record_trials.py FOLDER KIND FIRST LAST     KIND is rec, idx or json; prints a JSON line a trial
"""

import json
import os
import signal
import sys

from mutations import mutated

from gluon_bot import InputError
from gluon_bot.data.records import process_pool, verify

SECONDS = 20  # a trial that takes longer hangs


def outcome(folder):
    """What training would say of the folder: 'refused: ...' or 'accepted'."""
    try:
        verify.check(folder, 'val')
        return 'accepted'
    except InputError as error:
        return 'refused: %s' % error


def in_child(function):
    """The text that function() returns in a forked process, or how the process died."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(SECONDS)
        os.write(theirs, function().encode('utf-8', 'backslashreplace')[:4000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, 'rb') as pipe:
        text = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return text if status == 0 else 'died with status %d' % status


def main(folder, kind, first, last):
    process_pool.cores = lambda: 1  # all in the one process that may die
    path = os.path.join(folder, 'val.' + kind)
    with open(path, 'rb') as file:
        good = file.read()
    verify.check(folder, 'val')
    for number in range(first, last):
        before = os.stat(path)
        data = mutated(good, kind, number)
        with open(path, 'wb') as file:
            file.write(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as far as a program can hide it
        verdict = in_child(lambda: outcome(folder))
        same = kind == 'json' and verdict == 'accepted' and json.loads(data) == json.loads(good)
        print(json.dumps({'number': number, 'verdict': 'same content' if same else verdict,
                          'same_size': len(data) == len(good)}))
        with open(path, 'wb') as file:
            file.write(good)
    verify._known.clear()
    verify.check(folder, 'val')


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
