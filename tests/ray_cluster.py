"""A Ray cluster for tests of the farm, and a farm whose engines are arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from animate_rt.runtime.animator import Animator
from animate_rt.runtime.farm import farm as farm_module
from animate_rt.runtime.farm.cluster import connected
from animate_rt.runtime.farm.farm import Farm
from animate_rt.runtime.farm.report import FarmReport
from animate_rt.runtime.shots.shot import Shot

from .job_lists import write_job_inputs


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects Ray's process objects while the test's filter of their warnings is in force."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[Any]:
    """One Ray cluster for all tests of a file, as starting one takes seconds."""
    with connected(None) as ray:
        yield ray


@pytest.fixture
def ray(shared_ray: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The shared cluster; farms in this process use it instead of starting their own."""
    monkeypatch.setattr(farm_module, "connected", lambda _address: nullcontext(shared_ray))
    return shared_ray


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, three references and pose/ of 8 pictures."""
    return write_job_inputs(tmp_path_factory.mktemp("inputs"))


def run(made: list[Shot], open_animator: Callable[[Path], Animator], **options: Any) -> FarmReport:
    return Farm(made, open_animator=open_animator, **options).run()


# A program: the command `farm` with arithmetic engines. Its last argument is the seconds of a UNet call.
FARM = (
    "import sys; from functools import partial; from animate_rt.runtime.farm.farm import Farm;"
    "from animate_rt.tests.fixed_cost import open_animator; from animate_rt.__main__ import main;"
    "opened = partial(open_animator, cost_s=float(sys.argv.pop()));"
    "Farm.__init__.__kwdefaults__['open_animator'] = opened; sys.exit(main(sys.argv[1:]))"
)
