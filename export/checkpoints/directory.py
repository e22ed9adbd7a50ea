"""Finds the files of a checkpoint directory, under the names that people have for them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

from ...engines.manifest import MAX_TEXTS
from ...engines.model import Member, Track
from ...errors import CheckpointError, InputMissing
from ...text import quoted
from .contents import AGAIN, file_size, read_document
from .families import (
    CONFIG,
    GUIDERS,
    IMAGE_ENCODER,
    INFERENCE,
    MEMBERS,
    NETWORKS,
    OTHERS,
    SUFFIXES,
    UNET,
    VAE_FOLDER,
    VARIANT,
)

VAE_STEMS, IMAGE_ENCODER_STEMS = ("diffusion_pytorch_model",), ("pytorch_model", "model")
INDEX_BYTES = 10_000_000
NAME_LENGTH = 100  # of a weight file
SHOWN = 8  # names in a message

Files = tuple[Path, ...]  # the weights of one network: one file, or all shards of it


class Directory:
    """A checkpoint directory, and its base, which has the files that it lacks.

    `member` is the one whose guiders it has. `weights` are the weight files of each network; those of Champ's
    guiders are added by `find_guiders`. `unet`, `vae` and `image_encoder` are config files; `inference` are
    the inference.yaml files there are, the base's first. Raises InputMissing if there is no such directory,
    CheckpointError if a file is missing or if it is not clear which one is meant.
    """

    def __init__(self, folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None):
        self.folders = [Path(folder), *([Path(base)] if base is not None else [])]
        for path in self.folders:
            if not os.path.isdir(path):  # also of names that no file can have
                raise InputMissing(f"{path}: expected a checkpoint directory (see the README), found none")
        networks = ("denoising_unet", "motion_module", "reference_unet")
        self.weights = {name: find_weights(self.locate(NETWORKS, name), name) for name in networks}
        self.guiders = self.locate(NETWORKS, "pose_guider", *GUIDERS.values())
        self.member = member_of(self.guiders)
        if self.member != "champ":
            self.weights["pose_guider"] = find_weights(self.guiders, "pose_guider")
        self.unet = self.locate(UNET, config=True) / CONFIG
        self.vae = self.locate(VAE_FOLDER, *VAE_STEMS, config=True) / CONFIG
        self.image_encoder = self.locate(IMAGE_ENCODER, *IMAGE_ENCODER_STEMS, config=True) / CONFIG
        self.weights["vae"] = find_weights(self.vae.parent, *VAE_STEMS)
        self.weights["image_encoder"] = find_weights(self.image_encoder.parent, *IMAGE_ENCODER_STEMS)
        self._check_names()
        self.inference = [f / INFERENCE for f in reversed(self.folders) if INFERENCE in names_in(f)]

    def _check_names(self) -> None:
        """Raise CheckpointError for weight files that a manifest cannot name."""
        files = list(chain(*self.weights.values()))
        if len(files) > MAX_TEXTS:
            raise CheckpointError(
                f"{self.folders[0]}: expected at most {MAX_TEXTS} weight files, found {len(files)}"
            )
        for file in files:
            if len(file.name) > NAME_LENGTH or not file.name.isprintable():
                raise CheckpointError(
                    f"{self.folders[0]}: expected names of up to {NAME_LENGTH} printable characters, found "
                    f"{quoted(file.name)}; rename it"
                )

    def find_guiders(self, tracks: tuple[Track, ...]) -> None:
        """Add the weights of the guider for each of these kinds of pictures."""
        self.weights |= {GUIDERS[kind]: find_weights(self.guiders, GUIDERS[kind]) for kind in tracks}
        self._check_names()

    def locate(self, places: tuple[str, ...], *stems: str, config: bool = False) -> Path:
        """The first place with weights of one of these stems or, if it should have one, a config file. All
        places in one folder come before the next folder."""
        for folder, place in product(self.folders, places):
            names = names_in(folder / place)
            if (config and CONFIG in names) or any(variants(names, stem) for stem in stems):
                return folder / place
        self._refuse_others()
        wanted = Path(places[0]) / (CONFIG if config else f"{stems[0]}{{{','.join(SUFFIXES[:3])}}}")
        found = [name for f in self.folders for name in names_in(f) if stems and name.startswith(stems[0])]
        raise CheckpointError(
            f"{self.folders[-1]}: expected {wanted}, found no such file"
            + (f", only {listed(found)}" if found else "")
        )

    def _refuse_others(self) -> None:
        """Raise CheckpointError if the weights are known to be those of another project."""
        for folder, place, stem in product(self.folders, NETWORKS, OTHERS):
            if found := variants(names_in(folder / place), stem):
                supported = ", ".join(layout.title for layout in MEMBERS.values())
                raise CheckpointError(
                    f"{folder}: expected a checkpoint of {supported}, found {OTHERS[stem]}'s "
                    f"{min(found.values())[0]}; {OTHERS[stem]} is not supported"
                )


def member_of(guiders: Path) -> Member:
    """The member of the family whose guiders are in this folder. Raises CheckpointError if it has several."""
    names = names_in(guiders)
    kinds = [name for name in GUIDERS.values() if variants(names, name)]
    if kinds and variants(names, "pose_guider"):
        raise CheckpointError(
            f"{guiders}: expected the guiders of one model, found pose_guider and {', '.join(kinds)}; keep "
            "the files of different models in different folders"
        )
    if kinds:
        return "champ"
    return "musepose" if guiders.resolve().name == MEMBERS["musepose"].folder else "animate-anyone"


def find_weights(folder: Path, *stems: str) -> Files:
    """The weight file with one of these stems, in any supported format, or its shards; earlier stems come
    first. Where the plain name is missing, a variant of it is taken if there is only one."""
    names = names_in(folder)
    for stem in stems:
        if found := variants(names, stem):
            if "" not in found and len(found) > 1:
                raise CheckpointError(
                    f"{folder}: expected one {stem}, found {listed(sorted(chain(*found.values())))}; keep "
                    f"one of them, or give one the name {stem}{Path(min(found.values())[0]).suffix}"
                )
            path = folder / found.get("", min(found.values()))[0]
            file_size(path)
            return shards(path) if path.suffix == ".json" else (path,)
    raise CheckpointError(f"{folder}: expected {stems[0]}{{{','.join(SUFFIXES[:3])}}}, found no such file")


def variants(names: list[str], stem: str) -> dict[str, list[str]]:
    """The names of weight files with this stem by variant, "" for none; the preferred format comes first."""
    suffixes = "|".join(map(re.escape, SUFFIXES))
    pattern = re.compile(rf"{re.escape(stem)}({VARIANT})?({suffixes})(?:\.index(\.\w+)?\.json)?")
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            variant = (match[1] or match[3] or "").strip("._-")
            order = name.endswith(".json"), SUFFIXES.index(match[2]), name
            found.setdefault(variant, []).append(order)
    return {variant: [name for *_, name in sorted(orders)] for variant, orders in found.items()}


def shards(index: Path) -> Files:
    """The files that an index of shards names. Raises CheckpointError if one is missing."""
    document = read_document(index, INDEX_BYTES)
    files = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(n, str) for n in files.values()):
        raise CheckpointError(f"{index}: expected a weight_map from keys to files, found none; {AGAIN}")
    names = sorted(set(files.values()))
    if strange := [name for name in names if not name.endswith(SUFFIXES) or Path(name).name != name]:
        raise CheckpointError(f"{index}: expected names of weight files beside it, found {listed(strange)}")
    there = names_in(index.parent)
    if missing := [name for name in names if name not in there]:
        raise CheckpointError(
            f"{index}: expected {len(names)} files beside it, found no {listed(missing)}; download them"
        )
    return tuple(index.parent / name for name in names)


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError):
        return []


def listed(names: Collection[Any]) -> str:
    """The first names, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(quoted, islice(names, SHOWN))) + more
