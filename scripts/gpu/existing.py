"""What `install.sh existing` adds to an MXNet and a Horovod that are there already.

Run by their Python: prints the requirements to install into .venv, one a line, and says on standard error which versions it
found and which of them are out of the tested range. Nothing that MXNet was built against is among the requirements.
Exit code 2 where MXNet cannot be used.
"""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

# what is never replaced, and the versions that gluon_bot was tested with or is known to need
# (packages for Python 3.11 are compiled against numpy 1.23, for earlier ones against 1.21)
RANGES = {'mxnet': ((1, 9), (1, 10)), 'horovod': ((0, 28), (0, 29)),
          'numpy': ((1, 23) if sys.version_info >= (3, 11) else (1, 21), (1, 24))}
FATAL = 'mxnet', 'numpy'  # without Horovod, or with another, one worker runs


def version(module: str) -> str:
    """The version that importing a module shows; '' where it cannot be imported, which is said."""
    try:
        return __import__(module).__version__
    except Exception as error:  # OSError for a library, AttributeError for another numpy
        print('install.sh: %s cannot be imported by %s: %s' % (module, sys.executable, error), file=sys.stderr)
        return ''


def number(text: str) -> tuple:
    """The first two parts of a version."""
    return tuple(int(part) for part in text.split('.')[:2] if part.isdigit())


def main() -> None:
    usable = (3, 8) <= sys.version_info[:2] <= (3, 11)
    if not usable:
        print('install.sh: Python %d.%d is out of range: 3.8 to 3.11' % sys.version_info[:2], file=sys.stderr)
    for module, (least, below) in RANGES.items():
        found = version(module)
        fits = bool(found) and least <= number(found) < below
        usable = usable and (fits or module not in FATAL)
        if found:
            print('install.sh: found %s %s%s' % (module, found, '' if fits else ', out of range: %d.%d or later, below %d.%d'
                                                 % (least + below)), file=sys.stderr)
    if not usable:
        sys.exit(2)
    for line in (Path(__file__).parents[1] / 'constraints.txt').read_text().splitlines():
        name, _, wanted = line.partition(';')[0].strip().partition('==')
        if not wanted or name in RANGES or name.startswith('opencv') and importlib.util.find_spec('cv2'):
            continue
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = ''
        if installed != wanted:
            print(line)


if __name__ == '__main__':
    main()
