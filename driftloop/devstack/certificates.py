"""A certificate authority of a run's own, and the broker's certificate from it: TLS on the loopback address."""

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
from driftloop.core.kafka.acls import BROKER, user
from driftloop.devstack.ports import HOST

VALID = datetime.timedelta(days=825)


@dataclass(frozen=True)
class Certificates:
    """PEM files."""

    ca: Path
    """What clients trust."""
    broker: Path
    """The broker's private key (PKCS 8) and certificate in one file, as Kafka's PEM key store wants them (KIP-651)."""


def issued(folder: Path) -> Certificates:
    """The certificates under ``folder``, made where there are none; the authority's own key is thrown away.

    Nobody can issue another certificate that clients of this run trust, and a run that outlives `VALID` needs new ones:
    remove the two files and start it again.
    """
    found = Certificates(folder / "ca.pem", folder / "broker.pem")
    if found.ca.exists() and found.broker.exists():
        return found
    authority_key, broker_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("driftloop run", authority_key.public_key(), "driftloop run", authority_key, None)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")])
    broker = _certificate(user(BROKER), broker_key.public_key(), "driftloop run", authority_key, alternatives)
    private = broker_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(found.broker, private + broker.public_bytes(serialization.Encoding.PEM))
    write_private(found.ca, authority.public_bytes(serialization.Encoding.PEM))
    return found


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    alternatives: x509.SubjectAlternativeName | None,
) -> x509.Certificate:
    """A certificate for ``public``, signed with ``key``; an authority's where it has no ``alternatives`` of a host."""
    now = datetime.datetime.now(datetime.UTC)
    authority = alternatives is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
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


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
