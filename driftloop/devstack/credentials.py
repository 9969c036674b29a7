"""What the secured embedded stack knows its users by: files under `secrets` that only this user can read."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from driftloop.core.files import write_private
from driftloop.core.kafka.acls import ADMIN, ROLES, user
from driftloop.core.settings import KafkaSecurity, Settings

REDIS = "redis"
"""The file of the online store's password; the store has one user for all."""
COMMANDS = (
    "ping hello auth select client|setname client|setinfo info get set mget del rpush lrange multi exec discard "
    "evalsha eval script|load pexpire"
)
"""What `driftloop.core.online_store` and `driftloop.core.coordination.leader_lease` ask of Redis; `info` tells the stack which process answers."""


@dataclass(frozen=True)
class Credentials:
    """Use `made`; the passwords are one to a file, so that DRIFTLOOP_SECURITY__PASSWORD_FILE can name one."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Credentials:
        """Those under ``folder``, made where there are none."""
        # Only who starts a secured stack has the library that makes certificates.
        from driftloop.devstack import certificates

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (ADMIN, *(role.name for role in ROLES), REDIS):
            if not (folder / name).exists():
                write_private(folder / name, secrets.token_urlsafe(32).encode())
        certificates.issued(folder)
        return cls(folder)

    def password(self, name: str) -> str:
        """Of a role, or of `REDIS`."""
        return (self.folder / name).read_text(encoding="ascii")

    def settings(self, base: Settings, role: str) -> Settings:
        """``base`` with the identity of ``role``."""
        known = KafkaSecurity(
            protocol="SASL_SSL", username=user(role), password=self.password(role), ca_file=str(self.folder / "ca.pem")
        )
        return replace(base, security=known, redis_user="driftloop", redis_password=self.password(REDIS))

    def variables(self, role: str) -> dict[str, str]:
        """The same for another process's environment, with the passwords left in their files."""
        return {
            "DRIFTLOOP_SECURITY__PROTOCOL": "SASL_SSL",
            "DRIFTLOOP_SECURITY__USERNAME": user(role),
            "DRIFTLOOP_SECURITY__PASSWORD_FILE": str(self.folder / role),
            "DRIFTLOOP_SECURITY__CA_FILE": str(self.folder / "ca.pem"),
            "DRIFTLOOP_REDIS_USER": "driftloop",
            "DRIFTLOOP_REDIS_PASSWORD_FILE": str(self.folder / REDIS),
        }

    def scram(self) -> list[str]:
        """Options of Kafka's storage tool that make the users: for a file, as a command line is everybody's to read."""
        options: list[str] = []
        for name in (ADMIN, *(role.name for role in ROLES)):
            options += ["--add-scram", f"SCRAM-SHA-512=[name={user(name)},password={self.password(name)}]"]
        return options

    def write_redis_users(self) -> Path:
        """Write Redis' list of users, with the digest of the one password, and return the file."""
        digest = hashlib.sha256(self.password(REDIS).encode()).hexdigest()
        allowed = " ".join(f"+{command}" for command in COMMANDS.split())
        lines = f"user default off\nuser driftloop on #{digest} resetchannels ~driftloop:* -@all {allowed}\n"
        write_private(self.folder / "redis.acl", lines.encode())
        return self.folder / "redis.acl"
