"""A certificate authority that exists for one test, and a certificate that it issued for signing media."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

NAME = "A studio that exists in tests"


def write_certificate(folder: Path, *, days: int = 30, ocsp: str = "") -> tuple[Path, Path, Any]:
    """Write a chain and a key in PEM, and return both paths and the key.

    `days` may be negative: the certificate ended so many days ago. `ocsp` is the address of its authority.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, text),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, text),
            ]
        )

    now = datetime.datetime.now(datetime.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def builder(subject: str, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("An authority of tests"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=100))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)
        )

    def usage(**on: bool) -> x509.KeyUsage:
        off = dict.fromkeys(
            (
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        return x509.KeyUsage(**off | on)

    root = (
        builder("An authority of tests", root_key.public_key())
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), True)
        .sign(root_key, hashes.SHA256())
    )
    access = x509.AccessDescription(
        AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp or "http://127.0.0.1:9/")
    )
    leaf = (
        builder(NAME, key.public_key())
        .add_extension(x509.AuthorityInformationAccess([access]), False)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(usage(digital_signature=True), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), True)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private, key
