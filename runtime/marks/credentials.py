"""C2PA: signed metadata, which says who made a file, how and from what, and shows every later change.

Signing needs c2pa-python (`pip install 'animate-rt[marks]'`) and a certificate. The key may be a file, or
stay elsewhere: then a function signs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from ...engines.files import read_bytes
from ...errors import ConfigError, OutputError
from ...text import message_of, one_line, quoted
from .metadata import GENERATED, PNG_START, SOURCE_TYPES
from .watermark import Payload

MAX_BYTES = 1_000_000  # of a certificate or a key
MESSAGE = 300  # characters of the library's message in ours
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
INSTALL = "pip install 'animate-rt[marks]'"
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

    def apply(self, path: Path, origin: Origin, watermark: str, payload: Payload) -> None:
        """Sign a PNG or mp4 in place: not for files with their final name.

        `watermark` is the name of the mark in the frames, or empty. Raises ConfigError, OutputError.
        """
        import mimetypes

        import c2pa

        signed = path.with_name(f"{path.name}.signed")
        try:
            with self.signer() as signer, c2pa.Builder(document(origin, watermark, payload)) as builder:
                for name, file in origin.inputs.items():
                    if file.is_file() and (kind := mimetypes.guess_type(file.name)[0]):
                        with file.open("rb") as source:
                            builder.add_ingredient({"title": name, "relationship": "inputTo"}, kind, source)
                with path.open("rb") as source, signed.open("w+b") as target:
                    kind = "image/png" if source.read(len(PNG_START)) == PNG_START else "video/mp4"
                    source.seek(0)
                    builder.sign(signer, kind, source, target)
            os.replace(signed, path)
        except c2pa.C2paError as error:
            raise OutputError(
                f"C2PA: cannot sign: {one_line(message_of(error), MESSAGE)}; check certificate and key"
            ) from error
        finally:
            signed.unlink(missing_ok=True)

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


@dataclass(frozen=True, slots=True)
class Signature:
    """What c2pa-python says of a file. state is "none", "valid", "invalid" or "not checked"."""

    state: str = "none"
    why: tuple[str, ...] = ()  # codes of what is wrong
    signer: str = ""
    source_type: str = ""  # of the action that created the file


def read_signature(path: Path, kind: str, *, present: bool) -> Signature:
    """Check the C2PA manifest of a file of this media type. `present`: whether the file seems to have one."""
    if not present:
        return Signature()
    if not find_spec("c2pa"):
        return Signature("not checked", (f"c2pa-python is not installed: {INSTALL}",))
    import c2pa

    try:
        with path.open("rb") as file, c2pa.Reader(kind, file) as reader:
            store = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        return Signature("invalid", (one_line(message_of(error), MESSAGE),))
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    info = active.get("signature_info", {})
    signer = " / ".join(str(info[name]) for name in ("common_name", "issuer") if info.get(name))
    actions = [
        action
        for assertion in active.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", ())
    ]
    types = [str(action.get("digitalSourceType", "")) for action in actions]
    results = (store.get("validation_results") or {}).get("activeManifest", {})
    why = tuple(dict.fromkeys(str(failure.get("code")) for failure in results.get("failure", ())))
    state = "valid" if store.get("validation_state") in ("Valid", "Trusted") else "invalid"
    source = next((each.rpartition("/")[2] for each in types if each), "")
    return Signature(state, why[:10], one_line(signer, MESSAGE), one_line(source, 60))
