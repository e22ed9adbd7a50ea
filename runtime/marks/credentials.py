"""C2PA: signing a file. The signed metadata say who made it, how and from what, and show every later change.

Signing needs c2pa-python (`pip install 'animate-rt[marks]'`) and a certificate. The key may be a file, or
stay elsewhere: then a function signs.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Self

from ...engines.files import read_bytes
from ...errors import ConfigError, OutputError
from ...text import message_of, one_line, quoted
from .metadata import GENERATED, PNG_START, SOURCE_TYPES
from .signature import INSTALL, MESSAGE, offline, signature_in
from .watermark import Payload

MAX_BYTES = 1_000_000  # of a certificate or a key
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
INVISIBLE = "c2pa.soft-binding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a file was made from: input files by what they are, and facts such as seed and bundle."""

    inputs: dict[str, Path] = field(default_factory=dict)  # such as {"reference": Path("hero.png")}
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A certificate, and its key or a function that signs bytes with it.

    certificates: the chain in PEM, the signer's own first. key: in PEM (PKCS 8). sign: returns the signature
    of bytes; for ECDSA as the two numbers, not as DER. algorithm: of ALGORITHMS. time_authority: address of a
    service that signs the time; it needs a network.

    Raises ConfigError if they cannot sign: when they are made they sign something small, so that this is
    known before a clip is.
    """

    certificates: str
    key: str = field(default="", repr=False)
    sign: Callable[[bytes], bytes] | None = None
    algorithm: str = "es256"
    time_authority: str | None = None

    def __post_init__(self) -> None:
        if not find_spec("c2pa"):
            raise ConfigError(f"C2PA: expected the package c2pa-python, found none; {INSTALL}")
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(
                f"C2PA: expected an algorithm of {', '.join(ALGORITHMS)}, found {quoted(self.algorithm)}"
            )
        if "BEGIN CERTIFICATE" not in self.certificates:
            raise ConfigError("C2PA: expected certificates in PEM, found something else; convert them")
        if (self.sign is None) == (not self.key):
            raise ConfigError("C2PA: expected a key or a function that signs, found both or none; give one")
        self.check()

    @classmethod
    def read(cls, certificates: Path, key: Path) -> Self:
        """Read both from PEM files. Raises ConfigError."""
        texts = []
        for path in (certificates, key):
            try:
                texts.append(read_bytes(path, MAX_BYTES).decode("ascii"))
            except OSError as error:
                raise ConfigError(f"C2PA: cannot read {quoted(str(path))}: {error.strerror}") from error
            except ValueError as error:
                raise ConfigError(f"C2PA: expected PEM in {quoted(str(path))}, found other bytes") from error
        return cls(certificates=texts[0], key=texts[1], algorithm=algorithm_of(texts[1], key))

    def check(self) -> None:
        """Sign a small picture. Raises ConfigError if that is impossible, or the signature is not valid."""
        import c2pa
        from PIL import Image

        check_certificate(self.certificates, self.key)
        picture, signed = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (16, 16)).save(picture, "PNG")
        picture.seek(0)
        try:
            self.sign_file(picture, signed, "image/png", document(Origin(), "", Payload(0)), {})
        except c2pa.C2paError as error:
            raise ConfigError(
                f"C2PA: expected a certificate and a key that can sign, found others: "
                f"{one_line(message_of(error), MESSAGE)}"
            ) from error
        signed.seek(0)
        found = signature_in(signed)
        if found.state != "valid":
            raise ConfigError(
                f"C2PA: expected a certificate whose signatures are valid, found {', '.join(found.why)}"
            )

    def apply(self, path: Path, origin: Origin, watermark: str, payload: Payload) -> None:
        """Sign a PNG or mp4 in place: not for files with their final name.

        `watermark` is the name of the mark in the frames, or empty. Raises ConfigError, OutputError.
        """
        import c2pa

        signed = path.with_name(f"{path.name}.signed")
        try:
            with path.open("rb") as source, signed.open("w+b") as target:
                kind = "image/png" if source.read(len(PNG_START)) == PNG_START else "video/mp4"
                source.seek(0)
                self.sign_file(source, target, kind, document(origin, watermark, payload), origin.inputs)
            os.replace(signed, path)
        except c2pa.C2paError as error:
            raise OutputError(
                f"C2PA: cannot sign: {one_line(message_of(error), MESSAGE)}; check certificate and key"
            ) from error
        finally:
            signed.unlink(missing_ok=True)

    def sign_file(
        self, source: BinaryIO, target: BinaryIO, kind: str, about: str, inputs: Mapping[str, Path]
    ) -> None:
        """Write a signed copy of a file of this media type. Raises C2paError or ConfigError."""
        import c2pa

        with offline() as context, self.signer() as signer, c2pa.Builder(about, context) as builder:
            for name, path in inputs.items():
                add_input(builder, name, path)
            builder.sign(signer, kind, source, target)

    def signer(self) -> Any:
        import c2pa

        try:
            if self.sign is not None:
                algorithm = c2pa.C2paSigningAlg[self.algorithm.upper()]
                return c2pa.Signer.from_callback(self.sign, algorithm, self.certificates, self.time_authority)
            authority = self.time_authority.encode() if self.time_authority else None
            info = c2pa.C2paSignerInfo(
                self.algorithm.encode(), self.certificates.encode(), self.key.encode(), authority
            )
            return c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise ConfigError(
                f"C2PA: expected a certificate with its key, found others: "
                f"{one_line(message_of(error), MESSAGE)}"
            ) from error


def add_input(builder: Any, name: str, path: Path) -> None:
    """Add a file as an ingredient, with its own manifest if it has one; a folder by its name only."""
    import mimetypes

    import c2pa

    about = {"title": name, "relationship": "inputTo"}
    try:
        if path.is_file():
            with path.open("rb") as source:
                builder.add_ingredient(about, mimetypes.guess_type(path.name)[0] or "", source)
            return
    except c2pa.C2paError:  # c2pa-python cannot read it, or not what it says of itself
        pass
    builder.add_ingredient(about, "", io.BytesIO())


def check_certificate(certificates: str, key: str) -> None:
    """Raise ConfigError unless the first certificate is valid now and, if it is given, of this key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        first = x509.load_pem_x509_certificates(certificates.encode())[0]
    except ValueError as error:
        raise ConfigError("C2PA: expected certificates in PEM, found some that cannot be read") from error
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    if not begin <= datetime.now(UTC) <= end:
        raise ConfigError(
            f"C2PA: expected a certificate that is valid today, found one for {begin:%Y-%m-%d} to "
            f"{end:%Y-%m-%d}; renew it"
        )
    if key and load_pem_private_key(key.encode(), None).public_key() != first.public_key():
        raise ConfigError(
            "C2PA: expected the key of the first certificate, found another one; the signer's own "
            "certificate has to be the first in its file"
        )


def algorithm_of(key: str, path: Path) -> str:
    """The algorithm that a key is for. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"C2PA: expected a private key in PEM without a password in {quoted(str(path))}, found another"
        ) from error
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.key_size in (256, 384, 521):
        return {256: "es256", 384: "es384", 521: "es512"}[loaded.key_size]
    raise ConfigError(f"C2PA: expected a key of ECDSA, RSA or Ed25519 in {quoted(str(path))}, found another")


def document(origin: Origin, watermark: str, payload: Payload) -> str:
    """What is signed, as JSON for c2pa-python."""
    made = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + GENERATED}
    assertions: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}]
    if watermark:
        block = {"scope": {}, "value": str(payload)}
        assertions.append({"label": INVISIBLE, "data": {"alg": f"animate-rt.{watermark}", "blocks": [block]}})
    if origin.facts:
        assertions.append({"label": "animate-rt.request", "data": origin.facts})
    return json.dumps({"claim_generator_info": [{"name": "animate-rt"}], "assertions": assertions})
