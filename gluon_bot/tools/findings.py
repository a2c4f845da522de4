"""What the doctor finds: one line of its report each."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, WRONG = 'ok', 'note', 'wrong'  # a note costs speed or comfort; what is wrong stops a run


class Finding(NamedTuple):
    """One line of the report."""

    check: str
    state: str
    found: str
    advice: str = ''
