"""Credentials of the secured embedded stack, in files under `secrets` that only this user can read."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from driftloop.core.files import write_private
from driftloop.core.kafka.acls import ADMIN, ROLES, user_name
from driftloop.core.settings import KafkaSecurity, Settings

REDIS = "redis"
"""File with the password of the online store. The store has one user for all roles."""
COMMANDS = (
    "ping hello auth select client|setname client|setinfo info get set mget del rpush lrange multi exec discard "
    "evalsha eval script|load pexpire"
)
"""Redis commands of `driftloop.core.online_store` and `driftloop.core.coordination.leader_lease`.

With `info` the stack checks which process answers.
"""


@dataclass(frozen=True)
class Credentials:
    """Passwords and certificates in one folder; see `create`.

    Each password has its own file, so that DRIFTLOOP_SECURITY__PASSWORD_FILE can name it.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Credentials:
        """Return the credentials in ``folder``; create missing ones."""
        # Imported here, because only a secured stack needs the library for certificates.
        from driftloop.devstack import certificates

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (ADMIN, *(role.name for role in ROLES), REDIS):
            if not (folder / name).exists():
                write_private(folder / name, secrets.token_urlsafe(32).encode())
        certificates.issue_certificates(folder)
        return cls(folder)

    def password(self, name: str) -> str:
        """Return the password of a role, or of `REDIS`."""
        return (self.folder / name).read_text(encoding="ascii")

    def settings(self, base: Settings, role: str) -> Settings:
        """Return settings with the identity of a role.

        Args:
            base: Other settings.
            role: Name of the role.
        """
        security = KafkaSecurity(
            protocol="SASL_SSL",
            username=user_name(role),
            password=self.password(role),
            ca_file=str(self.folder / "ca.pem"),
        )
        return replace(base, security=security, redis_user="driftloop", redis_password=self.password(REDIS))

    def variables(self, role: str) -> dict[str, str]:
        """Return the identity of a role as environment variables, which name the files of the passwords."""
        return {
            "DRIFTLOOP_SECURITY__PROTOCOL": "SASL_SSL",
            "DRIFTLOOP_SECURITY__USERNAME": user_name(role),
            "DRIFTLOOP_SECURITY__PASSWORD_FILE": str(self.folder / role),
            "DRIFTLOOP_SECURITY__CA_FILE": str(self.folder / "ca.pem"),
            "DRIFTLOOP_REDIS_USER": "driftloop",
            "DRIFTLOOP_REDIS_PASSWORD_FILE": str(self.folder / REDIS),
        }

    def scram_options(self) -> list[str]:
        """Return options of Kafka's storage tool that create the users.

        They belong in a file: every user of this machine can read a command line.
        """
        options: list[str] = []
        for name in (ADMIN, *(role.name for role in ROLES)):
            options += ["--add-scram", f"SCRAM-SHA-512=[name={user_name(name)},password={self.password(name)}]"]
        return options

    def write_redis_users(self) -> Path:
        """Write the ACL file of Redis, with the digest of the password, and return its path."""
        digest = hashlib.sha256(self.password(REDIS).encode()).hexdigest()
        allowed = " ".join(f"+{command}" for command in COMMANDS.split())
        lines = f"user default off\nuser driftloop on #{digest} resetchannels ~driftloop:* -@all {allowed}\n"
        write_private(self.folder / "redis.acl", lines.encode())
        return self.folder / "redis.acl"
