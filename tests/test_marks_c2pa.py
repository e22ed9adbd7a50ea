"""Signed metadata, by c2pa-python with a certificate made here. Skipped without the extra `marks`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from animate_rt import AnimateError, ConfigError, Marks, Payload, detect, open_writer
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks.credentials import Credentials, Origin
from animate_rt.runtime.marks.metadata import GENERATED, boxes
from animate_rt.runtime.media.picture import write_png

from .certificates import NAME, write_certificate

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")
PAYLOAD = Payload(job=77)
FRAMES = [Scene("held-out", 5, 256).frame(index) for index in range(3)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def signed(certificate: tuple[Path, Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed `a.mp4` and `frames/`."""
    folder = tmp_path_factory.mktemp("signed")
    write_png(folder / "hero.png", FRAMES[0])
    origin = Origin(inputs={"reference": folder / "hero.png"}, facts={"bundle": "abc", "seed": 7})
    marks = Marks(PAYLOAD, credentials=Credentials.read(*certificate[:2]), origin=origin)
    for name in ("a.mp4", "frames"):
        write(folder / name, marks)
    return folder


def write(path: Path, marks: Marks) -> None:
    with open_writer(path, 256, 256, 24, marks=marks) as writer:
        for frame in FRAMES:
            writer.write(frame)


@pytest.mark.parametrize(("name", "kind"), [("a.mp4", "video/mp4"), ("frames/00001.png", "image/png")])
def test_a_signed_file_is_valid_and_says_what_it_is(signed: Path, name: str, kind: str) -> None:
    found = detect(signed / name)
    assert (found.signature.state, found.signature.source_type) == ("valid", GENERATED)
    assert NAME in found.signature.signer
    assert found.reading.payload == PAYLOAD
    with (signed / name).open("rb") as file, c2pa.Reader(kind, file) as reader:
        manifest = reader.get_active_manifest()
    assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    assert assertions["animate-rt.request"] == {"bundle": "abc", "seed": 7}
    assert assertions["c2pa.soft-binding"]["blocks"][0]["value"] == str(PAYLOAD)
    (ingredient,) = manifest["ingredients"]
    assert (ingredient["title"], ingredient["relationship"]) == ("reference", "inputTo")


@pytest.mark.parametrize("name", ["a.mp4", "frames/00001.png"])
def test_one_changed_byte_is_found(signed: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((signed / name).read_bytes())
    # In an mp4 a letter of the encoder's name, so that the video stays as it is.
    at = content.index(b"x264 - core") if name == "a.mp4" else content.rindex(b"IDAT") + 900
    content[at] ^= 1
    changed = tmp_path / Path(name).name
    changed.write_bytes(content)
    try:
        state = detect(changed).signature
    except AnimateError:  # the PNG's own checksum found it first
        assert name.endswith("png")
        return
    assert (state.state, bool(state.why)) == ("invalid", True)


def test_the_watermark_is_found_when_the_signature_was_removed(signed: Path, tmp_path: Path) -> None:
    content = (signed / "a.mp4").read_bytes()
    with (signed / "a.mp4").open("rb") as file:
        assert len(list(boxes(file))) == 2
    stripped = tmp_path / "a.mp4"
    stripped.write_bytes(content.replace(b"uuid\xd8\xfe\xc3\xd6", b"free\xd8\xfe\xc3\xd6"))
    found = detect(stripped)
    assert found.signature.state == "none"
    assert found.reading.payload == PAYLOAD


def test_a_function_may_sign(certificate: tuple[Path, Path, Any], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    chain, _path, key = certificate
    calls = []

    def sign(content: bytes) -> bytes:
        calls.append(len(content))
        r, s = decode_dss_signature(key.sign(content, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    credentials = Credentials(certificates=chain.read_text(), sign=sign)
    write(tmp_path / "a.mp4", Marks(PAYLOAD, credentials=credentials))
    assert detect(tmp_path / "a.mp4").signature.state == "valid"
    assert calls


def test_a_failed_signature_leaves_no_file(certificate: tuple[Path, Path, Any], tmp_path: Path) -> None:
    def sign(_content: bytes) -> bytes:
        raise OSError("the key is locked")

    credentials = Credentials(certificates=certificate[0].read_text(), sign=sign)
    with pytest.raises(AnimateError, match="C2PA"):
        write(tmp_path / "a.mp4", Marks(PAYLOAD, credentials=credentials))
    assert not list(tmp_path.iterdir())


def test_what_is_no_certificate_is_refused(certificate: tuple[Path, Path, Any], tmp_path: Path) -> None:
    chain, key, _loaded = certificate
    (tmp_path / "text").write_text("hello")
    wrong = [(tmp_path / "none", key), (tmp_path / "text", key), (chain, tmp_path / "text"), (chain, chain)]
    for paths in wrong:
        with pytest.raises(ConfigError, match="C2PA"):
            Credentials.read(*paths)
    with pytest.raises(ConfigError, match="both or none"):
        Credentials(certificates=chain.read_text())
    with pytest.raises(ConfigError, match="algorithm"):
        replace(Credentials.read(chain, key), algorithm="md5")
