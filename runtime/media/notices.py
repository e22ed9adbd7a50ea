"""Notices: what is unusual about an input and does not prevent its use, said once per process."""

from __future__ import annotations

import logging
from functools import lru_cache

LOG = logging.getLogger("animate_rt.media")


@lru_cache(maxsize=1024)
def notice(message: str) -> None:
    """Log a warning. Inputs are opened several times, so a message that was logged before is not repeated."""
    LOG.warning("%s", message)
