"""The marks of a test's full count, of which the default run does a small part."""

import pytest

SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
