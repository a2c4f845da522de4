"""The record once more as TensorBoard event files, for those who ask for it with --tensorboard."""

from __future__ import annotations

import os
from typing import Any

from gluon_bot import InputError


class Events:
    """Writes every number of a record line as a scalar under RUN/tensorboard; does nothing where not enabled."""

    def __init__(self, run: str, enabled: bool) -> None:
        self.writer: Any = None
        if enabled:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                raise InputError('--tensorboard needs tensorboardX: pip install tensorboardX') from None
            self.writer = SummaryWriter(os.path.join(run, 'tensorboard'))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Scalars named `event`/field at `step` updates."""
        for name, value in values.items() if self.writer else ():
            if isinstance(value, (int, float)):
                self.writer.add_scalar('%s/%s' % (event, name), value, step)

    def close(self) -> None:
        """Flush and close."""
        if self.writer:
            self.writer.close()
