"""Signed metadata, by c2pa-python with a certificate made here. Skipped without the extra `marks`."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from animate_rt import (
    AnimateError,
    ConfigError,
    MarkOptions,
    Marks,
    Payload,
    Service,
    detect,
    open_writer,
)
from animate_rt.benchmarks.puppets.world.scene import Scene
from animate_rt.runtime.marks.credentials import Credentials, Origin, document
from animate_rt.runtime.marks.metadata import GENERATED, boxes
from animate_rt.runtime.media.picture import save_png16, write_png
from PIL import Image

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


def test_pngs_with_16_bits_have_all_marks(certificate: tuple[Path, Path, Any], tmp_path: Path) -> None:
    marks = Marks(PAYLOAD, credentials=Credentials.read(*certificate[:2]))
    save_png16(tmp_path / "a.png", marks.marker(256, 256)(FRAMES[0]))
    marks.finish(tmp_path / "a.png")
    found = detect(tmp_path / "a.png")
    assert found.signature.state == "valid"
    assert found.metadata.source_type == GENERATED
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
    """The certificate ends while the clip is made."""
    signed = Credentials.read(*certificate[:2])
    (tmp_path / "later").mkdir()
    object.__setattr__(signed, "certificates", write_certificate(tmp_path / "later", days=-1)[0].read_text())
    (tmp_path / "result").mkdir()
    with pytest.raises(AnimateError, match="C2PA: cannot sign"):
        write(tmp_path / "result" / "a.mp4", Marks(PAYLOAD, credentials=signed))
    assert not list((tmp_path / "result").iterdir())


def test_what_cannot_sign_is_refused_at_once(certificate: tuple[Path, Path, Any], tmp_path: Path) -> None:
    chain, key, _loaded = certificate
    for name, days in (("other", 30), ("ended", -2)):
        (tmp_path / name).mkdir()
        write_certificate(tmp_path / name, days=days)
    wrong = {
        "expected the key of the first certificate": (chain, tmp_path / "other" / "key.pem"),
        "expected a certificate that is valid today": (
            tmp_path / "ended" / "chain.pem",
            tmp_path / "ended" / "key.pem",
        ),
    }
    for message, paths in wrong.items():
        with pytest.raises(ConfigError, match=message) as raised:
            Credentials.read(*paths)
        assert "\n" not in str(raised.value)
        with pytest.raises(ConfigError, match=message):
            Service(tmp_path / "bundle", marks=MarkOptions(certificate=paths[0], key=paths[1]))

    def fail(_content: bytes) -> bytes:
        raise OSError("the key is locked")

    signs = [fail, lambda _content: bytes(64)]
    for sign in signs:
        with pytest.raises(ConfigError, match="C2PA: expected a certificate and a key that can sign"):
            Credentials(certificates=chain.read_text(), sign=sign)
    broken = chain.read_text().replace("MII", "AAA")
    with pytest.raises(ConfigError, match="found some that cannot be read"):
        Credentials(certificates=broken, key=key.read_text())


def test_inputs_that_c2pa_cannot_read_are_named(certificate: tuple[Path, Path, Any], tmp_path: Path) -> None:
    inputs = {
        name: tmp_path / name for name in ("broken.png", "poses.json", "a.mkv", "empty", "folder", "none")
    }
    for path in list(inputs.values())[:4]:
        path.write_bytes(b"" if path.name == "empty" else b"{}")
    inputs["folder"].mkdir()
    credentials = Credentials.read(*certificate[:2])
    write(tmp_path / "out", Marks(PAYLOAD, credentials=credentials, origin=Origin(inputs=inputs)))
    manifest = manifest_of(tmp_path / "out" / "00000.png")
    assert [ingredient["title"] for ingredient in manifest["ingredients"]] == list(inputs)


def test_no_small_picture_of_the_reference_is_given_away(signed: Path) -> None:
    for name in ("a.mp4", "frames/00001.png"):
        manifest = manifest_of(signed / name)
        assert not any("thumbnail" in part for part in (manifest, *manifest["ingredients"]))


def manifest_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file, c2pa.Reader(file) as reader:
        found: dict[str, Any] = reader.get_active_manifest()
    return found


@contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """An address, and the first line of every request to it."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _address = server.accept()
                except OSError:  # it is closed
                    return
                with client:
                    requests.append(client.recv(4096).partition(b"\r\n")[0])
                    client.sendall(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/", requests
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_addresses_in_files_are_not_asked(tmp_path: Path) -> None:
    """A reference whose manifest lies at an address, and a certificate whose authority has one."""
    with listening() as (address, requests):
        credentials = Credentials.read(*write_certificate(tmp_path, ocsp=address)[:2])
        with credentials.signer() as signer, c2pa.Builder(document(Origin(), "", PAYLOAD)) as builder:
            builder.set_remote_url(f"{address}manifest")
            builder.set_no_embed()
            write_png(tmp_path / "plain.png", FRAMES[0])
            with (tmp_path / "plain.png").open("rb") as source, (tmp_path / "hero.png").open("w+b") as target:
                builder.sign(signer, "image/png", source, target)
        assert not requests
        with (tmp_path / "hero.png").open("rb") as file, pytest.raises(c2pa.C2paError):
            c2pa.Reader(file)  # without this project's settings
        assert requests == [b"GET /manifest HTTP/1.1"]
        requests.clear()
        found = detect(tmp_path / "hero.png").signature
        assert (found.state, "another address" in found.why[0]) == ("not checked", True)
        origin = Origin(inputs={"reference": tmp_path / "hero.png"})
        write(tmp_path / "a.mp4", Marks(PAYLOAD, credentials=credentials, origin=origin))
        assert detect(tmp_path / "a.mp4").signature.state == "valid"
        assert requests == []


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "JPEG"])
def test_a_signature_is_found_wherever_it_is(
    certificate: tuple[Path, Path, Any], tmp_path: Path, kind: str
) -> None:
    """In some formats it lies after the picture, which here takes more than a megabyte."""
    source, target = io.BytesIO(), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(source, kind, **({"lossless": True} if kind == "WEBP" else {}))
    source.seek(0)
    credentials = Credentials.read(*certificate[:2])
    credentials.sign_file(source, target, f"image/{kind.lower()}", document(Origin(), "", PAYLOAD), {})
    (tmp_path / "picture").write_bytes(target.getvalue())
    found = detect(tmp_path / "picture")
    assert (found.signature.state, found.marked) == ("valid", True)


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
