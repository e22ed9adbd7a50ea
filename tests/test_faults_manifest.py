"""Manifests from strangers: anyone can seal one, so each value is checked before it costs memory or time.

Every document here is refused, or accepted, with one line at most, within 2 GB of memory and 10 s.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from animate_rt import AnimateError, BundleCorrupt, BundleError, BundleMismatch, ConfigError
from animate_rt.engines.bundle import MANIFEST, MAX_MANIFEST, open_bundle
from animate_rt.engines.json_document import from_json
from animate_rt.engines.model import ModelConfig, NoiseConfig, SamplingConfig

from .manifests import sealed

DOCUMENTS = 600
LIMIT_S = 10
LINE = 2500  # characters of a message
Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def original(small_bundle: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((small_bundle / MANIFEST).read_bytes())
    return document


@pytest.fixture(scope="module")
def unchanged(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to a file change its times, and other processes use the shared bundle at the same time."""
    return Path(shutil.copytree(small_bundle, tmp_path_factory.mktemp("copied") / "bundle"))


@pytest.fixture
def linked(unchanged: Path, tmp_path: Path) -> Path:
    """A copy of the bundle whose manifest can be replaced; its other files are hard links."""
    path = Path(shutil.copytree(unchanged, tmp_path / "bundle", copy_function=os.link))
    (path / MANIFEST).unlink()
    return path


def put(path: str, value: Any) -> Edit:
    """Return an edit that sets one value of a manifest."""

    def edit(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for key in parents:
            document = document[key]
        document[last] = value

    return edit


def widths(network: str, *values: Any) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        for key in ("widths", "heads", "attention") if network == "unet" else ("widths",):
            document["model"][network][key] = [bool(v) if key == "attention" else v for v in values]

    return edit


def listed(name: str, num_bytes: int = 1) -> Edit:
    """Return an edit that lists one more file."""
    return lambda document: document["files"].update({name: {"sha256": "0" * 64, "num_bytes": num_bytes}})


def unlisted(name: str) -> Edit:
    return lambda document: document["files"].pop(name)


def other_graphs(memory: dict[str, Any]) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        document["graphs"] = {f"g{i}": {"inputs": [], "outputs": []} for i in range(99)}
        document["memory"] = memory

    return edit


LIES: dict[str, tuple[Edit, type[BundleError], str]] = {
    "many layers": (put("model/unet/layers_per_block", 10**10), BundleMismatch, "1 to 128, found 1000"),
    "many VAE layers": (put("model/vae/layers_per_block", 10**8), BundleMismatch, "1 to 128"),
    "layers as a huge number": (put("model/unet/layers_per_block", 10**4000), BundleMismatch, "1 to 128"),
    "wide": (put("model/unet/cross_attention_dim", 10**9), BundleMismatch, "1 to 65536"),
    "many levels": (widths("unet", *[32] * 100), BundleMismatch, "1 to 8 levels, found 100"),
    "no levels": (widths("unet"), BundleMismatch, "1 to 8 levels, found 0"),
    "no VAE levels": (widths("vae"), BundleMismatch, "1 to 8 levels, found 0"),
    "norm_eps no float has": (put("model/unet/norm_eps", 10**400), BundleMismatch, "a finite number"),
    "negative norm_eps": (put("model/image_encoder/norm_eps", -1e-5), BundleMismatch, "between 0 and 1"),
    "scaling_factor 0": (put("model/vae/scaling_factor", 0.0), BundleMismatch, "above 0"),
    "motion levels": (put("model/motion/levels", [True]), BundleMismatch, "levels, those of the UNet"),
    "huge window": (put("model/motion/max_frames", 10**12), BundleMismatch, "1 to 4096"),
    "long noise schedule": (put("model/noise/num_train_timesteps", 10**9), BundleMismatch, "1 to 100000"),
    "negative offset": (put("model/noise/steps_offset", -5), BundleMismatch, "steps_offset from 0"),
    "wide picture": (put("bucket/width", 10**400), BundleMismatch, "at most 16384 pixels"),
    "negative picture": (put("bucket/height", -(10**400)), BundleMismatch, "the nearest is 64"),
    "window": (put("bucket/window", 10**400), BundleMismatch, "expected 1 to 32 frames"),
    "steps 0": (put("model/sampling/steps", 0), BundleMismatch, "found 0"),
    "schema of any kind": (put("schema", ["x\n" * 10**5]), BundleMismatch, r"schema 2, found \['x\\n"),
    "nothing listed": (put("files", {}), BundleCorrupt, "found none of engines/"),
    "weights not listed": (unlisted("graphs/weights.bin"), BundleCorrupt, "none of graphs/weights.bin"),
    "a graph not listed": (unlisted("graphs/pose_guider.onnx"), BundleCorrupt, "none of graphs/pose_guider"),
    "an absolute name": (listed("/dev/zero"), BundleCorrupt, "found /dev/zero"),
    "a name outside": (listed("../../etc/passwd"), BundleCorrupt, r"found \.\./\.\./etc/passwd"),
    "a NUL": (listed("a\0b"), BundleCorrupt, r"found a\\x00b"),
    "a surrogate": (listed("\ud800"), BundleCorrupt, r"found \\ud800"),
    "escapes": (listed("\x1b[31mred\n"), BundleCorrupt, r"found \\x1b\[31mred"),
    "a long name": (listed("x" * 10**6), BundleCorrupt, r"found x+\.\.\."),
    "a terabyte": (listed("graphs/x.onnx", 10**12), BundleMismatch, "0 to 68719476736"),
    "a digest that is none": (
        lambda document: document["files"]["graphs/weights.bin"].update(sha256="\x1b[2J"),
        BundleMismatch,
        r"64 hexadecimal digits, found \\x1b",
    ),
    "memory of one graph": (
        put("memory", {"vae_decoder": {"weights": 1, "activations": 1}}),
        BundleMismatch,
        "all 8 graphs or of none, found that of 1: vae_decoder",
    ),
    "a version with escapes": (put("backend_version", "\x1b[31m"), BundleMismatch, r"found \\x1b\[31m"),
    "a long version": (put("backend_version", "9" * 10**6), BundleMismatch, "up to 200 printable"),
    "many capabilities": (put("compute_capabilities", ["SM80"] * 10**4), BundleMismatch, "at most 64 texts"),
    "weights with a line break": (put("weights", {"a\nb": ""}), BundleMismatch, "found a b"),
    "fields of any name": (put("\x1b" + "x" * 10**6, 1), BundleMismatch, r"found \\x1bx+\.\.\."),
    "other graphs": (other_graphs({}), BundleMismatch, "and 104 more"),
    "memory of other graphs": (
        other_graphs({"g0": {"weights": 1, "activations": 1, "loading": 1}}),
        BundleMismatch,
        "the memory of all 99 graphs or of none, found that of 1: g0",
    ),
}  # fmt: skip


def tried(path: Path, content: bytes) -> AnimateError | None:
    """Open the bundle with this manifest; return the error, which is one short line, or None."""
    (path / MANIFEST).write_bytes(content)
    began = time.monotonic()
    try:
        open_bundle(path)
    except AnimateError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < LINE
        return error
    finally:
        (path / MANIFEST).unlink()
        assert time.monotonic() - began < LIMIT_S
    return None


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_a_manifest_is_refused_in_one_line(linked: Path, original: dict[str, Any], lie: str) -> None:
    edit, kind, message = LIES[lie]
    document = copy.deepcopy(original)
    edit(document)
    (linked / MANIFEST).write_bytes(sealed(document))
    with pytest.raises(kind, match=message):
        open_bundle(linked)
    assert tried(linked, sealed(document))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"digest":' * 50_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{",
        b'{"digest": NaN}',
        b" " * (MAX_MANIFEST + 1),
        b"[" * 900 + b"1,1" * 300_000 + b"]" * 900,  # a gigabyte, if it were indented
    ],
)
def test_what_is_no_manifest_is_refused(linked: Path, content: bytes) -> None:
    assert isinstance(tried(linked, content), BundleError)


def test_a_sealed_manifest_nested_deeply_is_refused(linked: Path, original: dict[str, Any]) -> None:
    nested: Any = []
    for _ in range(300):
        nested = [nested]
    assert isinstance(tried(linked, sealed(original | {"weights": nested})), BundleCorrupt)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values of a document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in parts for found in paths(part, (*path, key)))]


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 10**10, -(10**18), 10**400, 10**4000),
    *(0.0, 0.5, -0.5, 1e-300, 1e300, 1e9),
    *("", "x", "\0", "\ud800", "\x1b[31m", "a\nb", "x" * 10**5, "float32", "openvino", "tensorrt", "bf16"),
    *([], {}, [[]], [0], [10**10] * 1000, ["x"] * 1000, {"": 0}, {"x\n": {}}, {"/dev/zero": 1}),
]  # fmt: skip


def mutated(original: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The manifest with one to three values replaced, removed, repeated, renamed or moved."""
    document = copy.deepcopy(original)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        # Mostly of the model and bucket: a graph that is changed is refused by one comparison.
        places = [
            place for place in paths(document) if place and (place[0] != "graphs" or chance.random() < 0.1)
        ]
        if not places:  # all have been removed
            break
        *parents, key = chance.choice(places)
        parent: Any = document
        for step in parents:
            parent = parent[step]
        match chance.choice(("value", "value", "value", "remove", "repeat", "rename", "move")):
            case "value":
                parent[key] = copy.deepcopy(chance.choice(VALUES))
            case "remove":
                del parent[key]
            case "repeat" if isinstance(parent, list):
                parent[key:key] = [parent[key]] * chance.choice((1, 3, 1000))
            case "rename" if isinstance(parent, dict):
                names = ("", "x", "\0", "/dev/zero", "../x", "\ud800", "x" * 10**5, key.upper(), key + "\n")
                parent[chance.choice(names)] = parent.pop(key)
            case _:
                other = chance.choice(places)
                if other[0] in original:
                    parent[key] = copy.deepcopy(original[other[0]])
    return document


def test_mutated_manifests_are_accepted_or_refused_in_one_line(
    linked: Path, original: dict[str, Any]
) -> None:
    chance = random.Random(14)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = [tried(linked, sealed(mutated(original, chance))) for _ in range(DOCUMENTS)]
    kinds = {type(outcome) for outcome in outcomes}
    assert (
        {BundleMismatch, BundleCorrupt} <= kinds <= {BundleMismatch, BundleCorrupt, BundleError, type(None)}
    )
    assert time.monotonic() - began < 0.2 * DOCUMENTS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert tried(linked, sealed(original)) is None


def message_of_conversion(model: Any) -> str | None:
    try:
        from_json(ModelConfig, model, "model")
    except ConfigError as error:
        message = str(error)
    else:
        return None
    assert message.isprintable()
    assert len(message) < LINE
    return message


def test_mutated_models_convert_or_raise_one_line(original: dict[str, Any]) -> None:
    """`from_json` and the classes of a model, without a bundle around them."""
    chance = random.Random(15)
    accepted = 0
    for _ in range(2000):
        document = mutated({"model": original["model"]}, chance)
        accepted += message_of_conversion(document.get("model")) is None
    assert 20 < accepted < 1500


@pytest.mark.parametrize("limit", ["layers_per_block", "widths"])
def test_the_command_refuses_within_2_gb(linked: Path, original: dict[str, Any], limit: str) -> None:
    document = copy.deepcopy(original)
    document["model"]["unet"][limit] = 10**10 if limit == "layers_per_block" else [2**16] * 10**5
    (linked / MANIFEST).write_bytes(sealed(document))
    script = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        from animate_rt.__main__ import main
        sys.exit(main(["inspect", {os.fspath(linked)!r}]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == BundleMismatch.exit_status
    assert len(done.stderr.splitlines()) == 1


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "sampling",
    [
        *({"steps": steps} for steps in (0, -1, 10**6, 1001)),
        *({"timesteps": given} for given in ((5, 9), (9, 9), (9, -1), (1000, 5), tuple(range(10**5, 0, -1)))),
        *({"guidance_scale": scale} for scale in (-1.0, 0.0, 0.5, 101.0, NAN, INFINITE, -INFINITE)),
    ],
)
def test_a_recommended_sampling_that_cannot_work_is_refused(
    original: dict[str, Any], sampling: dict[str, Any]
) -> None:
    model: ModelConfig = from_json(ModelConfig, original["model"], "model")
    with pytest.raises(ConfigError, match="sampling: expected"):
        replace(model, sampling=SamplingConfig(**sampling))


def test_noise_schedules_at_the_limits(original: dict[str, Any]) -> None:
    model: ModelConfig = from_json(ModelConfig, original["model"], "model")
    leading = replace(model, noise=NoiseConfig(steps_offset=1))
    assert replace(leading, sampling=SamplingConfig(steps=999))
    with pytest.raises(ConfigError, match="found 1000 steps"):
        replace(leading, sampling=SamplingConfig(steps=1000))
    for values in (
        {"num_train_timesteps": 1},
        {"beta_start": 1e-300},
        {"beta_start": 0.9, "beta_end": 0.999},
        {"beta_end": NAN},
        {"steps_offset": 1000},
    ):
        with pytest.raises(ConfigError, match="noise schedule: expected"):
            NoiseConfig(**values)
