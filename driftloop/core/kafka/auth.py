"""Authentication at the Kafka broker, and one error message for each way in which the broker can refuse."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from kafka.errors import (
    AuthorizationError,
    KafkaError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import KafkaSecurity, Settings

MAX_CLOSED_LOGINS = 3
"""Log-ins that the broker closes without a response before they count as refused."""
_USER = "DRIFTLOOP_SECURITY__USERNAME and DRIFTLOOP_SECURITY__PASSWORD (or DRIFTLOOP_SECURITY__PASSWORD_FILE)"


class AccessDenied(DriftloopError):
    """The broker refuses this identity or its access. Another attempt is useless."""


def tls_context(security: KafkaSecurity) -> ssl.SSLContext | None:
    """Return the TLS context of a client. `None` for a protocol without TLS.

    Raises:
        DriftloopError: A file of the settings cannot be read.
    """
    if security.protocol not in ("SSL", "SASL_SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=security.ca_file or None)
        if security.cert_file:
            context.load_cert_chain(security.cert_file, security.key_file or None, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise DriftloopError(
            f"A certificate of DRIFTLOOP_SECURITY__CA_FILE, __CERT_FILE or __KEY_FILE cannot be read ({error}): "
            "give PEM files, the key without a pass phrase."
        ) from error
    return context


class Client(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """Network client for kafka-python that raises immediately with the reason of a refused log-in.

    The original hides the reason behind a time-out, and until then repeats a wrong password.
    """

    def __init__(self, **options: Any) -> None:
        net = NetworkSelector(**options)
        super().__init__(net, _Manager(net, **options), **options)


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    refused: Exception | None = None
    closed_logins = 0  # connections on which the broker answered, and which it closed during the log-in

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        # Only before the first metadata: later the client can reconnect when the broker has recovered.
        if self.refused is not None and not self.bootstrapped:
            raise self.refused
        connection = super().get_connection(*arguments, **options)
        connection.init_future.add_errback(partial(self._on_init_error, connection))
        return connection

    def _on_init_error(self, connection: Any, error: Exception) -> None:
        final = isinstance(error, SaslAuthenticationFailedError | UnsupportedSaslMechanismError)
        if final or isinstance(error.__context__, ssl.SSLCertVerificationError):
            self.refused = error
        elif connection.sasl_enabled and connection.broker_version_data is not None:
            # A refusal is lost if the connection closes with it: kafka-python drops the data that it read before.
            self.closed_logins += 1
            if self.closed_logins == MAX_CLOSED_LOGINS:
                self.refused = SaslAuthenticationFailedError("the broker closes the connection")


@contextmanager
def translate_auth_errors(settings: Settings, doing: str = "use") -> Iterator[None]:
    """Translate a refusal of the broker in the block to `AccessDenied`. Other errors pass unchanged.

    Args:
        settings: Address and security of the broker.
        doing: Verb for the access to the topics, such as ``read``.
    """
    try:
        yield
    except AuthorizationError as error:
        raise access_denied(settings, _refused_action(error, doing)) from error
    except (SaslAuthenticationFailedError, UnsupportedSaslMechanismError) as error:
        raise AccessDenied(
            f"Kafka at {settings.kafka} does not let {_identity(settings)} in with {settings.security.mechanism}: set "
            f"{_USER} to a user that it knows, DRIFTLOOP_SECURITY__MECHANISM to a mechanism that it accepts."
        ) from error
    except KafkaError as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            raise AccessDenied(
                f"The certificate of Kafka at {settings.kafka} is not trusted ({error.__context__.verify_message}): "
                "set DRIFTLOOP_SECURITY__CA_FILE to the authority that signed it."
            ) from error
        if "AuthorizationFailed" in str(error):  # kafka-python reports that of an idempotent producer only in words
            raise access_denied(settings, f"{doing} anything here") from error
        raise


def access_denied(settings: Settings, what: str) -> AccessDenied:
    """Create the error for a missing right.

    Args:
        settings: Address and security of the broker.
        what: Verb and object of the refused access.
    """
    return AccessDenied(
        f"Kafka at {settings.kafka} does not let {_identity(settings)} {what}: set {_USER} to those of the role that "
        "may, or let `driftloop topics --acls` give each role its rights."
    )


def unreachable(settings: Settings) -> DriftloopError:
    """Create the error for a broker that did not answer in time: nothing listens, or the protocol is another one."""
    host, _, port = settings.kafka.split(",")[0].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return DriftloopError(
            f"No Kafka broker answers at {settings.kafka}: start one, or set DRIFTLOOP_KAFKA to host:port."
        )
    return DriftloopError(
        f"Something listens at {settings.kafka} and does not answer as a Kafka broker that speaks "
        f"{settings.security.protocol}: set DRIFTLOOP_SECURITY__PROTOCOL to what it speaks, or "
        "DRIFTLOOP_KAFKA to another."
    )


def _identity(settings: Settings) -> str:
    return settings.security.username or "an anonymous client"


def _refused_action(error: AuthorizationError, doing: str) -> str:
    """Return the refused access. kafka-python names the topics only in one of its errors."""
    if isinstance(error, TopicAuthorizationFailedError):
        found = error.args[0]
        return f"{doing} {', '.join(sorted(found)) if isinstance(found, set) else found}"
    return f"{doing} anything here"


def _no_password() -> bytes:
    """Return an empty pass phrase, because OpenSSL would otherwise ask on the terminal and wait."""
    return b""
