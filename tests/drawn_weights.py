"""The random weights of a recorded case, drawn again from torch's generator.

They are the recorded ones bit for bit. On CPUs without AVX2, torch computes logarithms another way, and 6 of
10,000 weights are the next float16.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def with_weights(recorded: Path, folder: Path) -> Path:
    """Copy a recorded case to `folder`, and write the weight files that its weights.txt lists.

    Each line of weights.txt is a file, a key, a shape and, if it is not 1, a factor, in the order in which
    the recording drew them; a line `seed N` starts a new generator. Tables of positions are not random and
    are left out; the loader computes them.
    """
    shutil.copytree(recorded, folder)
    case = json.loads((recorded / "case.json").read_text())
    generator = torch.Generator().manual_seed(case["weight_seed"])
    files: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for line in (recorded / "weights.txt").read_text().splitlines():
        name, key, *rest = line.split("\t")
        if name == "seed":
            generator = torch.Generator().manual_seed(int(key))
            continue
        shape, *factor = rest
        drawn = draw(key, [int(size) for size in shape.split()], generator, by_reciprocal="family" in case)
        files[name][key] = drawn * int(factor[0]) if factor else drawn
    for name, weights in files.items():
        path = folder / "checkpoint" / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(weights, path)
        else:
            torch.save(weights, path)
    return folder


def draw(key: str, shape: list[int], generator: torch.Generator, *, by_reciprocal: bool) -> Tensor:
    """Draw one tensor. A product with the reciprocal and a quotient round differently."""
    drawn = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        root = math.prod(shape[1:]) ** 0.5
        drawn = drawn * (1 / root) if by_reciprocal else drawn / root
    elif key.endswith("weight"):  # of a norm
        drawn = 1 + 0.1 * drawn
    else:
        drawn = 0.05 * drawn
    return drawn.half()
