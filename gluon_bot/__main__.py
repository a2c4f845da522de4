"""`python -m gluon_bot`: the command line."""
import sys

from gluon_bot.cli.main import main

if __name__ == '__main__':
    sys.exit(main())
