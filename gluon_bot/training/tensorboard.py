"""The record once more as TensorBoard event files, for those who ask for it with --tensorboard."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from gluon_bot import InputError
from gluon_bot.console import decoration


def check(wanted: bool) -> None:
    """Raise InputError where events are wanted and the package that writes them is missing."""
    if wanted and importlib.util.find_spec('tensorboardX') is None:
        raise InputError('--tensorboard needs tensorboardX: pip install tensorboardX')


class Events:
    """Writes every number of a record line as a scalar under RUN/tensorboard; does nothing where not enabled."""

    def __init__(self, run: str, enabled: bool) -> None:
        self.writer: Any = None
        if enabled:
            with decoration('TensorBoard events'):
                from tensorboardX import SummaryWriter
                self.writer = SummaryWriter(os.path.join(run, 'tensorboard'))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Scalars named `event`/field at `step` updates."""
        writer, self.writer = self.writer, None  # which stays so where it fails
        with decoration('TensorBoard events'):
            for name, value in values.items() if writer else ():
                if isinstance(value, (int, float)):
                    writer.add_scalar('%s/%s' % (event, name), value, step)
            self.writer = writer

    def close(self) -> None:
        """Flush and close."""
        with decoration('TensorBoard events'):
            if self.writer:
                self.writer.close()
