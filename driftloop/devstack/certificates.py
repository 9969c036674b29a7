"""Certificate authority of a run and the broker's certificate, for TLS on the loopback address."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from driftloop.core.files import write_private
from driftloop.core.kafka.acls import BROKER, user_name
from driftloop.devstack.ports import HOST

VALID = datetime.timedelta(days=825)
"""Lifetime of the certificates."""


@dataclass(frozen=True)
class Certificates:
    """Paths of the PEM files."""

    ca: Path
    """Certificate of the authority, which clients trust."""
    broker: Path
    """Private key (PKCS 8) and certificate of the broker in one file, the format of Kafka's PEM key store (KIP-651)."""


def issue_certificates(folder: Path) -> Certificates:
    """Return the certificates in ``folder``; issue them if they do not exist.

    The private key of the authority is discarded, so no further certificate can be issued that clients of this run
    trust. A run that is older than `VALID` needs new certificates: remove the two files and start the run again.
    """
    certificates = Certificates(folder / "ca.pem", folder / "broker.pem")
    if certificates.ca.exists() and certificates.broker.exists():
        return certificates
    authority_key, broker_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("driftloop run", authority_key.public_key(), "driftloop run", authority_key, None)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")])
    broker = _certificate(user_name(BROKER), broker_key.public_key(), "driftloop run", authority_key, alternatives)
    private = broker_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(certificates.broker, private + broker.public_bytes(serialization.Encoding.PEM))
    write_private(certificates.ca, authority.public_bytes(serialization.Encoding.PEM))
    return certificates


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    alternatives: x509.SubjectAlternativeName | None,
) -> x509.Certificate:
    """Return a certificate for ``public``, signed with ``key``. Without ``alternatives`` it is an authority's."""
    now = datetime.datetime.now(datetime.UTC)
    authority = alternatives is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(_common_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if alternatives is not None:
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(alternatives, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(key, hashes.SHA256())


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
