"""Manifests that somebody has changed: anyone can give one the right digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from animate_rt.engines.bundle import MANIFEST
from animate_rt.engines.files import canonical, digest_of, hashed

Document = dict[str, Any]


def sealed(document: Document) -> bytes:
    """A manifest with the digest of the rest of it."""
    document = {key: value for key, value in document.items() if key != "digest"}
    return canonical(document | {"digest": digest_of(document)})


def edit_manifest(bundle: Path, edit: Callable[[Document], object]) -> None:
    """Change the manifest of a bundle in place, and its digest with it."""
    document = json.loads((bundle / MANIFEST).read_bytes())
    edit(document)
    (bundle / MANIFEST).write_bytes(sealed(document))


def list_files_again(bundle: Path) -> None:
    """Put the sizes and digests that the files of a bundle have now into its manifest."""

    def edit(document: Document) -> None:
        for name in document["files"]:
            found = hashed(bundle / name).file
            document["files"][name] = {"sha256": found.sha256, "num_bytes": found.num_bytes}

    edit_manifest(bundle, edit)
