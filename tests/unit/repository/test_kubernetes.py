"""The Kubernetes manifests: the API server would take them, kustomize can build them, and they agree with the code.

Each check takes the folder of the manifests and returns what is wrong there, in words. It runs on the real folder,
where it must find nothing, and on copies of it that are broken in one place, where it must say so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from driftloop.cli import parser
from driftloop.core import settings_source, topics
from driftloop.core.errors import DriftloopError
from driftloop.core.kafka import clients
from driftloop.core.settings import Settings
from stream_processors.monitoring import monitor
from stream_processors.runtime import processor
from stream_processors.scoring import scorer

ROOT = Path(__file__).parents[3]
TREE = ROOT / "deploy" / "kubernetes"
BUILDS = ("base", "overlays/demo", "overlays/gpu", "overlays/dask")
VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that the README names, and a new one."""

Json = dict[str, Any]
Check = Callable[[Path], list[str]]


# --- reading --------------------------------------------------------------------------------------------------------


@cache
def _parse(text: str) -> tuple[Json, ...]:
    return tuple(document for document in yaml.safe_load_all(text) if document)


def read(path: Path) -> tuple[Json, ...]:
    """The documents of a file."""
    return _parse(path.read_text(encoding="utf-8"))


def documents(tree: Path) -> list[Json]:
    """Every object of base and components, as it is written down."""
    paths = sorted(path for path in tree.rglob("*.yaml") if path.name != "kustomization.yaml")
    return [document for path in paths for document in read(path)]


def find(found: Sequence[Json], kind: str) -> list[Json]:
    """The objects of a kind."""
    return [document for document in found if document["kind"] == kind]


def title(document: Json) -> str:
    """`Kind name`."""
    return f"{document['kind']} {document['metadata']['name']}"


@dataclass(frozen=True)
class Pod:
    """A pod as its template describes it, or one that others bring along."""

    name: str
    labels: Mapping[str, str]
    ports: frozenset[int]
    spec: Json
    namespace: Mapping[str, str]
    """The labels of its namespace."""


HERE = {"kubernetes.io/metadata.name": "driftloop"}


def pods(found: Sequence[Json]) -> list[Pod]:
    """One pod for each template."""
    out = []
    for document in found:
        spec = document.get("spec", {})
        template = spec["jobTemplate"]["spec"]["template"] if document["kind"] == "CronJob" else spec.get("template")
        if document["kind"] in {"Deployment", "StatefulSet", "Job", "CronJob"}:
            ports = {
                port["containerPort"]
                for container in template["spec"]["containers"]
                for port in container.get("ports", ())
            }
            labels = template["metadata"]["labels"]
            out.append(Pod(document["metadata"]["name"], labels, frozenset(ports), template["spec"], HERE))
    return out


def env_file(path: Path) -> dict[str, str]:
    """The variables of a file as kustomize reads it."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def variables(tree: Path) -> dict[str, str]:
    """The ConfigMap `driftloop`, with what the components add to it."""
    out = env_file(tree / "base" / "settings.env")
    for path in sorted((tree / "components").glob("*/kustomization.yaml")):
        for generator in read(path)[0].get("configMapGenerator", ()):
            out |= dict(literal.split("=", 1) for literal in generator.get("literals", ()))
    return out


# --- schemas --------------------------------------------------------------------------------------------------------


def fields(*optional: str, **properties: Any) -> Json:
    """The schema of an object that has these fields and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def some(schema: Json) -> Json:
    """The schema of a list that is not empty."""
    return {"type": "array", "items": schema, "minItems": 1}


def one_of(*values: str) -> Json:
    """The schema of a choice."""
    return {"enum": list(values)}


def like(pattern: str) -> Json:
    """The schema of a text."""
    return {"type": "string", "pattern": f"^{pattern}$"}


TEXT = like(".+")
NUMBER = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}
SIZE = like("[0-9]+(m|[kMG]|[KMGT]i)?")
SELECTOR = fields(matchLabels={"type": "object", "additionalProperties": TEXT})

NODE_POOL = fields(
    replicas=NUMBER,
    roles=some(one_of("controller", "broker")),
    storage=fields(
        type=one_of("jbod"),
        volumes=some(
            fields(
                id=NUMBER,
                type=one_of("persistent-claim"),
                size=SIZE,
                kraftMetadata=one_of("shared"),
                deleteClaim=FLAG,
            )
        ),
    ),
    jvmOptions=fields(**{"-Xms": like("[0-9]+[mg]"), "-Xmx": like("[0-9]+[mg]")}),
    resources=fields(requests=fields(cpu=SIZE, memory=SIZE), limits=fields(cpu=SIZE, memory=SIZE)),
)
LISTENER = fields(
    name=like("[a-z0-9]{1,11}"),
    port={"type": "integer", "minimum": 9092},
    type=one_of("internal"),
    tls=FLAG,
    networkPolicyPeers=some(
        fields("podSelector", "namespaceSelector", podSelector=SELECTOR, namespaceSelector=SELECTOR)
    ),
)
SPREAD = fields(
    maxSkew=NUMBER,
    topologyKey=TEXT,
    whenUnsatisfiable=one_of("ScheduleAnyway", "DoNotSchedule"),
    labelSelector=SELECTOR,
)
SECURITY = fields(
    runAsNonRoot=FLAG,
    allowPrivilegeEscalation=FLAG,
    capabilities=fields(drop=some(TEXT)),
    seccompProfile=fields(type=TEXT),
)
KAFKA_CLUSTER = fields(
    kafka=fields(
        version=like(r"4\.[0-9]+\.[0-9]+"),
        metadataVersion=like(r"4\.[0-9]+-IV[0-9]+"),
        listeners=some(LISTENER),
        config={"type": "object", "additionalProperties": {"type": ["integer", "boolean", "string"]}},
        template=fields(
            pod=fields(terminationGracePeriodSeconds=NUMBER, topologySpreadConstraints=some(SPREAD)),
            kafkaContainer=fields(securityContext=SECURITY),
        ),
    ),
)
# What the scaler itself reads: every value is a text, and a name that it does not know is ignored.
TRIGGER = fields(
    "scaleToZeroOnInvalidOffset",
    bootstrapServers=like(r"[a-z0-9.-]+:[0-9]+"),
    version=like(r"[0-9]+\.[0-9]+\.[0-9]+"),
    consumerGroup=TEXT,
    topic=TEXT,
    lagThreshold=like("[1-9][0-9]*"),
    offsetResetPolicy=one_of("earliest", "latest"),
    scaleToZeroOnInvalidOffset=one_of("true", "false"),
)
SCALED = fields(
    scaleTargetRef=fields(name=TEXT),
    minReplicaCount=NUMBER,
    maxReplicaCount=NUMBER,
    pollingInterval=NUMBER,
    cooldownPeriod=NUMBER,
    triggers=some(fields(type=one_of("kafka"), metadata=TRIGGER)),
)
CUSTOM = {
    ("kafka.strimzi.io/v1", "KafkaNodePool"): NODE_POOL,
    ("kafka.strimzi.io/v1", "Kafka"): KAFKA_CLUSTER,
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED,
}
"""The specs of Strimzi's and KEDA's resources: the fields that are used here, and none other."""


def refusals(found: Sequence[Json]) -> list[str]:
    """What an API server would refuse, or drop in silence."""
    said = [(title(document), _refusal(json.dumps(document))) for document in found]
    return [f"{name}: {reason}" for name, reason in said if reason]


@cache
def _refusal(text: str) -> str:
    document = json.loads(text)
    custom = CUSTOM.get((document["apiVersion"], document["kind"]))
    errors: list[jsonschema.ValidationError] = []
    if custom is not None:
        whole = fields(apiVersion=TEXT, kind=TEXT, metadata={"type": "object"}, spec=custom)
        errors += jsonschema.Draft202012Validator(whole).iter_errors(document)
    for version in VERSIONS if custom is None else ():
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            errors.append(error)
        except kubernetes_validate.SchemaNotFoundError as error:
            return str(error.message)
    return "; ".join(f"{'.'.join(str(part) for part in error.path)}: {error.message[:300]}" for error in errors)


def invalid_documents(tree: Path) -> list[str]:
    """See `refusals`."""
    return refusals(documents(tree))


# --- kustomize ------------------------------------------------------------------------------------------------------


def loose_ends(tree: Path) -> list[str]:
    """Files that are named and not there, or there and not named; patches without a target."""
    out: list[str] = []
    named: set[Path] = set()
    for build in BUILDS:
        _accumulate((tree / build).resolve(), out, named)
    there = {path.resolve() for path in tree.rglob("*") if path.is_file() and path.suffix != ".md"}
    out += [f"{path.relative_to(tree.resolve())} is listed nowhere" for path in sorted(there - named)]
    return out


def _accumulate(folder: Path, out: list[str], named: set[Path], before: frozenset[str] = frozenset()) -> frozenset[str]:
    """Follow a kustomization; returns `Kind name` of every object that it has in the end."""
    path = folder / "kustomization.yaml"
    if not path.is_file():
        out.append(f"{folder} has no kustomization.yaml")
        return before
    named.add(path)
    kustomization = read(path)[0]
    found = before
    for entry in kustomization.get("resources", ()):
        target = (folder / entry).resolve()
        if target.is_dir():
            found = _accumulate(target, out, named, found)
        elif target.is_file():
            named.add(target)
            found |= {title(document) for document in read(target)}
        else:
            out.append(f"{path} names {entry}, which is not there")
    for generator in kustomization.get("configMapGenerator", ()):
        if generator.get("behavior") == "merge" and f"ConfigMap {generator['name']}" not in found:
            out.append(f"{path} merges into a ConfigMap {generator['name']} that is not there")
        for entry in (*generator.get("envs", ()), *generator.get("files", ())):
            named.add((folder / entry).resolve())
            if not (folder / entry).is_file():
                out.append(f"{path} names {entry}, which is not there")
        found |= {f"ConfigMap {generator['name']}"}
    for entry in kustomization.get("components", ()):
        found = _accumulate((folder / entry).resolve(), out, named, found)
    for patch in kustomization.get("patches", ()):
        if "path" in patch:
            named.add((folder / patch["path"]).resolve())
            if not (folder / patch["path"]).is_file():
                out.append(f"{path} names {patch['path']}, which is not there")
                continue
            text = (folder / patch["path"]).read_text(encoding="utf-8")
        else:
            text = patch["patch"]
        goal = patch.get("target") or {"kind": (body := yaml.safe_load(text))["kind"], **body["metadata"]}
        if f"{goal['kind']} {goal['name']}" not in found:
            out.append(f"{path} patches {goal['kind']} {goal['name']}, which is not there")
    for count in kustomization.get("replicas", ()):
        if not found & {f"Deployment {count['name']}", f"StatefulSet {count['name']}"}:
            out.append(f"{path} sets the replicas of {count['name']}, which is not there")
    return found


# --- pods -----------------------------------------------------------------------------------------------------------


def weaknesses(found: Sequence[Json]) -> list[str]:
    """What the Pod Security Standard `restricted` would refuse, and what else each pod here must have."""
    out = []
    for pod in pods(found):
        spec, context = pod.spec, pod.spec.get("securityContext", {})
        wanted = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": context.get("runAsUser", 0) > 0,
            "seccompProfile": context.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "automountServiceAccountToken: false": spec.get("automountServiceAccountToken") is False,
            "enableServiceLinks: false": spec.get("enableServiceLinks") is False,
            "terminationGracePeriodSeconds": "terminationGracePeriodSeconds" in spec,
            "no host namespaces": not {"hostNetwork", "hostPID", "hostIPC"} & set(spec),
            "label part-of": pod.labels.get("app.kubernetes.io/part-of") == "driftloop",
            "label name": pod.labels.get("app.kubernetes.io/name") == pod.name,
        }
        out += [f"{pod.name}: {name} is missing" for name, there in wanted.items() if not there]
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            context, resources = container.get("securityContext", {}), container.get("resources", {})
            mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}
            volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
            wanted = {
                "allowPrivilegeEscalation: false": context.get("allowPrivilegeEscalation") is False,
                "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
                "drop ALL": context.get("capabilities") == {"drop": ["ALL"]},
                "not privileged": not context.get("privileged"),
                "requests": {"cpu", "memory"} <= set(resources.get("requests", {})),
                "limits": {"cpu", "memory"} <= set(resources.get("limits", {})),
                "a writable /tmp": "sizeLimit" in volumes.get(mounts.get("/tmp", ""), {}).get("emptyDir", {}),
            }
            out += [f"{pod.name}: {name} is missing" for name, there in wanted.items() if not there]
    return out


def weak_pods(tree: Path) -> list[str]:
    """See `weaknesses`."""
    return weaknesses(documents(tree))


def blind_probes(tree: Path) -> list[str]:
    """Pods that stay and that nobody asks for their health, or that are asked at a port they do not have."""
    out = []
    found = documents(tree)
    lasting = [*find(found, "Deployment"), *find(found, "StatefulSet")]
    for pod in pods(lasting):
        container = pod.spec["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind)
            if probe is None:
                out.append(f"{pod.name}: no {kind}")
                continue
            request = probe.get("httpGet") or probe.get("tcpSocket")
            if request and request["port"] not in ports:
                out.append(f"{pod.name}: its {kind} asks at the port {request['port']}, which it does not have")
    chosen = settings_source.load(env_file(tree / "base" / "settings.env"))
    if chosen.health.address != "0.0.0.0" or chosen.api.address != "0.0.0.0":
        out.append("a process that listens on the loopback address alone is not reached by a probe")
    answers = {chosen.health.port, chosen.api.port}
    for pod in pods(found):
        if _verb_of(pod) and not pod.ports <= answers:
            out.append(f"{pod.name}: has ports {sorted(pod.ports)}, but driftloop answers at {sorted(answers)}")
    return out


# --- the code's side ------------------------------------------------------------------------------------------------

IMAGES = {
    "score": "driftloop-processor",
    "monitor": "driftloop-processor",
    "replay": "driftloop-producer",
    "topics": "driftloop-producer",
    "retrain": "driftloop-retrainer",
    "serve": "driftloop-api",
}
"""Which image has the packages that a verb needs."""


def _verb_of(pod: Pod) -> str:
    """The verb of a driftloop process, empty for the others."""
    container = pod.spec["containers"][0]
    return container["args"][0] if container["image"] in IMAGES.values() and "command" not in container else ""


def unknown_verbs(tree: Path) -> list[str]:
    """Arguments that the command line does not take, images without what the verb needs, images that no one sets."""
    out = []
    listed = {entry["name"] for entry in read(tree / "components" / "images" / "kustomization.yaml")[0]["images"]}
    for pod in pods(documents(tree)):
        container = pod.spec["containers"][0]
        if container["image"] not in listed:
            out.append(f"{pod.name}: its image {container['image']} is not among those of components/images")
        verb = _verb_of(pod)
        if not verb:
            continue
        if verb not in parser.verbs():
            out.append(f"{pod.name}: driftloop has no verb {verb}")
        elif IMAGES[verb] != container["image"]:
            out.append(f"{pod.name}: {container['image']} cannot run {verb}")
        elif not isinstance(_parsed(container["args"]), argparse.Namespace):
            out.append(f"{pod.name}: driftloop does not take {' '.join(container['args'])}")
    return out


def _parsed(arguments: Sequence[str]) -> argparse.Namespace | None:
    try:
        return parser.build().parse_args(list(arguments))
    except SystemExit:
        return None


def unfit_settings(tree: Path) -> list[str]:
    """Variables that a process would refuse at its start, and secrets that are not where they are looked for."""
    out = []
    shared = variables(tree)
    for pod in pods(documents(tree)):
        if not _verb_of(pod):
            continue
        container = pod.spec["containers"][0]
        if container.get("envFrom") != [{"configMapRef": {"name": "driftloop"}}]:
            out.append(f"{pod.name}: does not take the ConfigMap driftloop")
        environ = dict(shared)
        for variable in container.get("env", ()):
            if "valueFrom" in variable:
                assert variable["valueFrom"] == {"resourceFieldRef": {"resource": "limits.cpu"}}
                environ[variable["name"]] = str(_whole_cores(container["resources"]["limits"]["cpu"]))
            elif variable["name"].endswith(settings_source.FILE):
                if not _is_mounted(pod, variable["value"]):
                    out.append(f"{pod.name}: {variable['name']} names a file that is not mounted")
                # The test has no such file: any text will do.
                environ[variable["name"].removesuffix(settings_source.FILE)] = "secret"
            else:
                environ[variable["name"]] = variable["value"]
        try:
            chosen = settings_source.load(environ)
        except DriftloopError as error:
            out.append(f"{pod.name}: {error}")
            continue
        if pod.labels.get("driftloop/redis") == "client" and not chosen.redis_password:
            out.append(f"{pod.name}: has no password for Redis")
        if pod.labels.get("driftloop/redis") == "client" and chosen.signing_key == Settings().signing_key:
            out.append(f"{pod.name}: would sign with the public key")
    return out


def _whole_cores(amount: str) -> int:
    """A number of cores as Kubernetes puts it into a variable: rounded up."""
    return math.ceil(int(amount[:-1]) / 1000 if amount.endswith("m") else int(amount))


def _is_mounted(pod: Pod, file: str) -> bool:
    folder, _, key = file.rpartition("/")
    names = [mount["name"] for mount in pod.spec["containers"][0]["volumeMounts"] if mount["mountPath"] == folder]
    secrets = [
        volume["secret"]
        for volume in pod.spec["volumes"]
        if volume["name"] in names and volume.get("secret") is not None
    ]
    return any(
        secret["secretName"] == "driftloop"
        and ("items" not in secret or key in {item["path"] for item in secret["items"]})
        for secret in secrets
    )


def wrong_scaling(tree: Path) -> list[str]:
    """Scaling by another group or topic than the code reads, at another broker, or beyond what can share the work."""
    out = []
    found = documents(tree)
    chosen = settings_source.load(env_file(tree / "base" / "settings.env"))
    most = {"scorer": chosen.partitions, "monitor": 1}
    scaled = {document["spec"]["scaleTargetRef"]["name"]: document["spec"] for document in find(found, "ScaledObject")}
    if set(scaled) != set(most):
        out.append(f"{sorted(scaled)} are scaled, not {sorted(most)}")
    deployments = {document["metadata"]["name"]: document["spec"] for document in find(found, "Deployment")}
    for role, spec in scaled.items():
        if "replicas" in deployments.get(role, {"replicas": None}):
            out.append(f"{role}: is no Deployment whose replicas are left to KEDA")
        if not spec["minReplicaCount"] <= spec["maxReplicaCount"] <= most.get(role, 0):
            out.append(f"{role}: {spec['maxReplicaCount']} replicas are more than the {most.get(role, 0)} that share")
        triggers = [trigger["metadata"] for trigger in spec["triggers"]]
        groups, read_topics = {trigger["consumerGroup"] for trigger in triggers}, {t["topic"] for t in triggers}
        if groups != {clients.group_id(role, chosen)}:
            out.append(f"{role}: its group is {clients.group_id(role, chosen)}, not {groups}")
        if read_topics != topics_of(role, chosen):
            out.append(f"{role}: reads {topics_of(role, chosen)}, not {read_topics}")
        host, _, port = chosen.kafka.partition(":")
        if {t["bootstrapServers"] for t in triggers} != {f"{host}.driftloop.svc:{port}"}:
            out.append(f"{role}: is not scaled by the broker {chosen.kafka}")
        # Without a committed offset a processor begins at the beginning, and from no replica at all it must get going.
        if any(trigger.get("offsetResetPolicy") != "earliest" for trigger in triggers):
            out.append(f"{role}: begins with the earliest message")
        asleep = spec["minReplicaCount"] == 0
        if asleep and any(trigger.get("scaleToZeroOnInvalidOffset") == "true" for trigger in triggers):
            out.append(f"{role}: would never start")
    # Two of these at once would decide twice.
    for name in ("monitor", "retrainer"):
        spec = deployments[name]
        if spec.get("strategy") != {"type": "Recreate"} or spec.get("replicas", 1) != 1:
            out.append(f"{name}: could run twice")
    return out


def topics_of(role: str, chosen: Settings) -> set[str]:
    """The topics that a processor reads, asked of the processor itself."""
    asked: list[topics.Topic] = []

    def run(_role: str, _settings: Settings, read: Sequence[topics.Topic], *_: Any, **__: Any) -> None:
        assert _role == role
        asked.extend(read)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "run", run)
        {"scorer": scorer, "monitor": monitor}[role].run(chosen)
    return {topics.name(chosen, topic) for topic in asked}


def wrong_addresses(tree: Path) -> list[str]:
    """Services that lead to no pod, addresses in the settings that are no Service, too few brokers for the copies."""
    out = []
    found = documents(tree)
    served: set[tuple[str, int]] = set()
    for service in find(found, "Service"):
        reached = [pod for pod in pods(found) if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        if not reached:
            out.append(f"{title(service)} leads to no pod")
        for port in service["spec"]["ports"]:
            names = {p["name"] for pod in reached for c in pod.spec["containers"] for p in c["ports"]}
            if port["targetPort"] not in names:
                out.append(f"{title(service)}: no pod has the port {port['targetPort']}")
            served.add((service["metadata"]["name"], port["port"]))
    (cluster,), (pool,) = find(found, "Kafka"), find(found, "KafkaNodePool")
    if pool["metadata"]["labels"]["strimzi.io/cluster"] != cluster["metadata"]["name"]:
        out.append("the nodes belong to another Kafka")
    for listener in cluster["spec"]["kafka"]["listeners"]:
        served.add((f"{cluster['metadata']['name']}-kafka-bootstrap", listener["port"]))
    chosen = settings_source.load(variables(tree))
    for address in (chosen.kafka, chosen.redis, chosen.mlflow, chosen.retrain.dask):
        host, _, port = address.rpartition("://")[2].split("/")[0].partition(":")
        if (host, int(port)) not in served:
            out.append(f"{address} is no Service here")
    config = cluster["spec"]["kafka"]["config"]
    if not config["min.insync.replicas"] < chosen.replication <= pool["spec"]["replicas"]:
        out.append("a node that is away would stop the writing")
    return out


# --- the network ----------------------------------------------------------------------------------------------------


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    assert set(selector) <= {"matchLabels"}, "only matchLabels is understood here"
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def outsider(name: str, namespace: str, *ports: int, labels: Mapping[str, str] | None = None, **more: str) -> Pod:
    """A pod of another namespace; ``more`` are the namespace's own labels."""
    around = {"kubernetes.io/metadata.name": namespace} | {f"driftloop/{key}": value for key, value in more.items()}
    return Pod(name, labels or {}, frozenset(ports), {}, around)


# What Strimzi, KEDA and the others call theirs.
KAFKA = Pod("kafka", {"strimzi.io/name": "kafka-kafka"}, frozenset({9090, 9091, 9092, 8443}), {}, HERE)
OUTSIDERS = (
    outsider("dns", "kube-system", 53),
    outsider("apiserver", "nowhere", 6443),
    outsider("keda", "keda", labels={"app": "keda-operator"}),
    outsider("strimzi", "operators", labels={"strimzi.io/kind": "cluster-operator"}),
    outsider("ingress", "ingress-nginx"),
    outsider("prometheus", "monitoring"),
    outsider("shop", "shop", kafka="client"),
    outsider("stranger", "other", 80),
)


def connections(found: Sequence[Json]) -> set[tuple[str, str, int]]:
    """Who reaches whom at which port, by the rules of NetworkPolicies: the union of all, and both ends must agree."""
    everyone = [*pods(found), KAFKA, *OUTSIDERS]
    policies = find(found, "NetworkPolicy")
    return {
        (source.name, target.name, port)
        for source, target in itertools.product(everyone, everyone)
        for port in target.ports
        if HERE in (source.namespace, target.namespace)
        and _passes(policies, source, target, port, "egress", "to")
        and _passes(policies, target, source, port, "ingress", "from")
    }


def _passes(policies: Sequence[Json], own: Pod, other: Pod, port: int, way: str, peers: str) -> bool:
    """Whether the policies of ``own`` let it talk with ``other``; ``port`` is the target's."""
    if own.namespace != HERE:
        return True  # policies of other namespaces are not ours
    mine = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], own.labels)]
    mine = [spec for spec in mine if way.capitalize() in (spec.get("policyTypes") or ["Ingress"])]
    if not mine:
        return True
    return any(
        (peers not in rule or any(_is_peer(peer, other) for peer in rule[peers]))
        and ("ports" not in rule or port in {entry["port"] for entry in rule["ports"]})
        for spec in mine
        for rule in spec.get(way, ())
    )


def _is_peer(peer: Json, pod: Pod) -> bool:
    inside = selects(peer["namespaceSelector"], pod.namespace) if "namespaceSelector" in peer else pod.namespace == HERE
    return inside and selects(peer.get("podSelector", {}), pod.labels)


OWN = {"scorer", "monitor", "retrainer", "retrain", "api", "topics", "replay"}
CONNECTIONS = {
    *((name, "kafka", 9092) for name in (*OWN, "keda", "shop")),
    *((name, "redis", 6379) for name in ("scorer", "monitor", "retrainer", "retrain", "api")),
    *((name, "mlflow", 5000) for name in ("scorer", "retrainer", "retrain", "api")),
    *(("prometheus", name, 9100) for name in OWN - {"topics", "api"}),
    ("ingress", "api", 8000),
    ("prometheus", "api", 8000),
    ("kafka", "kafka", 9090),
    ("kafka", "kafka", 9091),
    *(("strimzi", "kafka", port) for port in (9090, 9091, 8443)),
    ("kafka", "apiserver", 6443),
    *((name, "dns", 53) for name in (*OWN, "kafka", "redis", "mlflow", "dask-scheduler", "dask-worker")),
    *((name, "dask-scheduler", 8786) for name in ("retrainer", "retrain", "dask-worker")),
    ("dask-scheduler", "dask-worker", 8788),
    ("dask-worker", "dask-worker", 8788),
}
"""Everything that may talk, base and components together."""


def wrong_connections(tree: Path) -> list[str]:
    """Who reaches what it should not, who does not reach what it should, and which policy is for no one."""
    found = documents(tree)
    there = connections(found)
    out = [f"{source} reaches {target}:{port}" for source, target, port in sorted(there - CONNECTIONS)]
    out += [f"{source} does not reach {target}:{port}" for source, target, port in sorted(CONNECTIONS - there)]
    policies = find(found, "NetworkPolicy")
    everyone = [*pods(found), KAFKA]
    for policy in policies:
        if not any(selects(policy["spec"]["podSelector"], pod.labels) for pod in everyone):
            out.append(f"{title(policy)} is for no pod")
    for pod in everyone:
        own = [p for p in policies if p["spec"]["podSelector"] and selects(p["spec"]["podSelector"], pod.labels)]
        if not own:
            out.append(f"{pod.name}: no policy but the general ones is for it")
    # Strimzi's own policy is added to ours: it must open no more.
    (listener,) = find(found, "Kafka")[0]["spec"]["kafka"]["listeners"]
    (own_policy,) = (policy for policy in policies if policy["metadata"]["name"] == "kafka")
    rules = [rule for rule in own_policy["spec"]["ingress"] if rule["ports"] == [{"port": listener["port"]}]]
    if [rule["from"] for rule in rules] != [listener.get("networkPolicyPeers")]:
        out.append("the listener's peers are not those of the NetworkPolicy kafka")
    return out


def published(tree: Path) -> list[str]:
    """What is reachable from outside the cluster: nothing of ours asks its callers who they are."""
    out = [f"{title(d)} publishes" for kind in ("Ingress", "HTTPRoute", "Gateway") for d in find(documents(tree), kind)]
    for service in find(documents(tree), "Service"):
        kind = service["spec"].get("type", "ClusterIP")
        if kind != "ClusterIP" or service["spec"].get("externalIPs"):
            out.append(f"{title(service)} is published ({kind})")
    for pod in pods(documents(tree)):
        ports = [port for container in pod.spec["containers"] for port in container.get("ports", ())]
        if any("hostPort" in port for port in ports):
            out.append(f"{pod.name} takes a port of its node")
    return out


def stuck_drains(tree: Path) -> list[str]:
    """Budgets that are for no pod, or that could keep a node from being drained."""
    out = []
    found = documents(tree)
    for budget in find(found, "PodDisruptionBudget"):
        spec = budget["spec"]
        if not any(selects(spec["selector"], pod.labels) for pod in pods(found)):
            out.append(f"{title(budget)} is for no pod")
        if "minAvailable" in spec or spec.get("maxUnavailable", 0) < 1:
            out.append(f"{title(budget)} blocks a drain while there is one replica")
    return out


def misplaced_gpus(tree: Path) -> list[str]:
    """The Job asks for a GPU and uses it; nothing else does, and without it no worker is left beside it."""
    out = []
    for pod in pods(documents(tree)):
        container = pod.spec["containers"][0]
        asks = "nvidia.com/gpu" in container["resources"]["limits"]
        uses = {"name": "DRIFTLOOP_RETRAIN__DEVICE", "value": "cuda"} in container.get("env", ())
        tolerated = any(entry["key"] == "nvidia.com/gpu" for entry in pod.spec.get("tolerations", ()))
        if len({asks, uses, tolerated, "nodeSelector" in pod.spec, pod.name == "retrain"}) != 1:
            out.append(f"{pod.name}: asks for a GPU, uses it and is placed where one is: all or none")
    (job,) = find(documents(tree), "CronJob")
    ends = {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}
    if job["spec"]["concurrencyPolicy"] != "Forbid" or not ends <= set(job["spec"]["jobTemplate"]["spec"]):
        out.append("retrain: its Jobs could run side by side or for ever")
    if read(tree / "components" / "gpu" / "kustomization.yaml")[0]["replicas"] != [{"name": "retrainer", "count": 0}]:
        out.append("retrainer: would run beside the Job")
    return out


CHECKS: tuple[Check, ...] = (
    invalid_documents,
    loose_ends,
    weak_pods,
    blind_probes,
    unknown_verbs,
    unfit_settings,
    wrong_scaling,
    wrong_addresses,
    wrong_connections,
    published,
    stuck_drains,
    misplaced_gpus,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_manifests_pass_every_check(check: Check) -> None:
    assert check(TREE) == []


BROKEN: dict[Check, list[tuple[str, str, str, str]]] = {
    invalid_documents: [
        ("base/scorer.yaml", "periodSeconds", "periodSecond", "'periodSecond' was unexpected"),
        ("base/api.yaml", "containerPort: 8000", "containerPort: http", "Deployment api"),
        ("base/network.yaml", "networking.k8s.io/v1", "networking.k8s.io/v1beta1", "NetworkPolicy default-deny"),
        ("base/kafka.yaml", "kraftMetadata", "metadata", "'metadata' was unexpected"),
        ("base/kafka.yaml", "listeners", "listener", "'listeners' is a required property"),
        ("base/kafka.yaml", "strimzi.io/v1", "strimzi.io/v1beta2", "Couldn't find schema"),
        ("base/scaling.yaml", "lagThreshold", "lagTreshold", "'lagTreshold' was unexpected"),
        ("base/scaling.yaml", '"1000"', "1000", "is not of type 'string'"),
    ],
    loose_ends: [
        ("base/kustomization.yaml", "  - redis.yaml\n", "", "redis.yaml is listed nowhere"),
        ("base/kustomization.yaml", "- redis.conf", "- valkey.conf", "names valkey.conf, which is not there"),
        ("base/kustomization.yaml", "mlflow.yaml", "registry.yaml", "names registry.yaml, which is not there"),
        ("components/gpu/kustomization.yaml", "name: retrainer", "name: trainer", "replicas of trainer"),
        ("components/dask/kustomization.yaml", "name: driftloop", "name: loop", "merges into a ConfigMap loop"),
        ("overlays/dask/kustomization.yaml", "components/dask", "components/das", "no kustomization.yaml"),
    ],
    weak_pods: [
        ("base/redis.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "redis: readOnlyRoot"),
        ("base/topics.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "topics: runAsNonRoot"),
        ("base/mlflow.yaml", "enableServiceLinks: false", "enableServiceLinks: true", "mlflow: enableServiceLinks"),
        ("components/gpu/retrain.yaml", "limits:", "limit:", "retrain: limits"),
    ],
    blind_probes: [
        ("base/monitor.yaml", "livenessProbe", "otherProbe", "monitor: no livenessProbe"),
        ("base/mlflow.yaml", "port: http\n            per", "port: web\n            per", "asks at the port web"),
        ("base/scorer.yaml", "containerPort: 9100", "containerPort: 9101", "driftloop answers at"),
        ("base/settings.env", "HEALTH__ADDRESS=0.0.0.0", "HEALTH__ADDRESS=127.0.0.1", "loopback"),
    ],
    unknown_verbs: [
        ("base/scorer.yaml", "- score\n", "- scores\n", "no verb scores"),
        ("base/api.yaml", "image: driftloop-api", "image: driftloop-processor", "cannot run serve"),
        ("base/api.yaml", "image: driftloop-api", "image: api", "not among those of components/images"),
        ("components/gpu/retrain.yaml", "--once", "--one-time", "does not take retrain --one-time"),
    ],
    unfit_settings: [
        ("base/settings.env", "DRIFTLOOP_PARTITIONS", "DRIFTLOOP_PARTITION", "does not fit"),
        ("base/scorer.yaml", "SCORER__THREADS", "SCORER__THREAD", "does not fit"),
        ("base/retrainer.yaml", "/signing-key", "-key/signing", "not mounted"),
        ("base/monitor.yaml", "REDIS_PASSWORD_FILE", "SECURITY__PASSWORD_FILE", "no password for Redis"),
        ("components/dask/kustomization.yaml", "RETRAIN__DASK", "DASK", "does not fit"),
    ],
    wrong_scaling: [
        ("base/scaling.yaml", "driftloop-scorer-default", "scorer-default", "its group is driftloop-scorer-default"),
        ("base/scaling.yaml", "topic: labels", "topic: outcomes", "monitor: reads"),
        ("base/scaling.yaml", "maxReplicaCount: 12", "maxReplicaCount: 13", "13 replicas are more"),
        ("base/scaling.yaml", "maxReplicaCount: 1\n", "maxReplicaCount: 2\n", "2 replicas are more"),
        ("base/settings.env", "STREAM=default", "STREAM=tweets", "its group is driftloop-scorer-tweets"),
        ("base/retrainer.yaml", "type: Recreate", "type: RollingUpdate", "retrainer: could run twice"),
    ],
    wrong_addresses: [
        ("base/settings.env", "redis:6379", "valkey:6379", "is no Service here"),
        ("base/kafka.yaml", "name: kafka\n", "name: events\n", "belong to another Kafka"),
        ("base/kafka.yaml", "min.insync.replicas: 2", "min.insync.replicas: 3", "stop the writing"),
        ("base/api.yaml", "targetPort: http", "targetPort: web", "no pod has the port web"),
    ],
    wrong_connections: [
        ("base/network.yaml", "driftloop/redis: client", "driftloop/cache: client", "scorer does not reach redis:6379"),
        ("base/network.yaml", "    - Egress\n", "", "scorer reaches stranger:80"),
        ("base/network.yaml", "port: 53", "port: 5353", "scorer does not reach dns:53"),
        ("base/network.yaml", "strimzi.io/kind", "strimzi.io/sort", "strimzi does not reach kafka:8443"),
        ("base/monitor.yaml", "driftloop/redis", "driftloop/mlflow", "monitor reaches mlflow:5000"),
        ("base/kafka.yaml", "networkPolicyPeers", "peers", "the listener's peers"),
        ("components/dask/network.yaml", "dask-worker", "worker", "is for no pod"),
    ],
    published: [
        (
            "base/mlflow.yaml",
            "spec:\n  selector:\n    app",
            "spec:\n  type: NodePort\n  selector:\n    app",
            "Service mlflow is",
        ),
        (
            "base/mlflow.yaml",
            "containerPort: 5000",
            "containerPort: 5000\n              hostPort: 5000",
            "port of its node",
        ),
        ("base/mlflow.yaml", "kind: Service", "kind: Ingress", "Ingress mlflow publishes"),
    ],
    stuck_drains: [
        ("base/disruption.yaml", "maxUnavailable", "minAvailable", "blocks a drain"),
        ("base/disruption.yaml", "name: scorer", "name: scorers", "is for no pod"),
    ],
    misplaced_gpus: [
        ("components/gpu/retrain.yaml", "nvidia.com/gpu: 1", "memory: 1Gi", "all or none"),
        ("components/gpu/retrain.yaml", "Forbid", "Allow", "side by side"),
        ("components/gpu/kustomization.yaml", "count: 0", "count: 1", "beside the Job"),
    ],
}


@pytest.mark.parametrize(
    ("check", "file", "old", "new", "said"), [(check, *case) for check, cases in BROKEN.items() for case in cases]
)
def test_control_broken_manifest_is_reported(
    check: Check, file: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    tree = tmp_path / "kubernetes"
    shutil.copytree(TREE, tree)
    text = (tree / file).read_text(encoding="utf-8")
    assert old in text
    (tree / file).write_text(text.replace(old, new), encoding="utf-8")
    assert said in "\n".join(check(tree))


def test_every_check_has_a_failing_example() -> None:
    assert set(BROKEN) == set(CHECKS)


def test_control_patch_without_target_is_reported(tmp_path: Path) -> None:
    tree = tmp_path / "kubernetes"
    shutil.copytree(TREE, tree)
    path = tree / "overlays" / "demo" / "kustomization.yaml"
    patch = {"kind": "Deployment", "metadata": {"name": "scores"}}
    body = read(path)[0] | {"patches": [{"patch": yaml.safe_dump(patch)}, {"path": "away.yaml"}]}
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    said = "\n".join(loose_ends(tree))
    assert "patches Deployment scores, which is not there" in said
    assert "names away.yaml, which is not there" in said


# --- the builds -----------------------------------------------------------------------------------------------------

TOOL = next((argv for argv in (("kustomize", "build"), ("kubectl", "kustomize")) if shutil.which(argv[0])), None)
with_kustomize = pytest.mark.skipif(TOOL is None, reason="neither kustomize nor kubectl is on PATH")


def build(folder: Path) -> list[Json]:
    """What `kubectl apply --kustomize` would send."""
    assert TOOL is not None
    done = subprocess.run([*TOOL, str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@with_kustomize
@pytest.mark.parametrize("folder", BUILDS)
def test_kustomize_output_passes_schema_and_security_checks(folder: str) -> None:
    found = build(TREE / folder)
    assert refusals(found) == []
    assert weaknesses(found) == []
    namespaces = {document["metadata"].get("namespace") for document in found if document["kind"] != "Namespace"}
    assert namespaces == {"driftloop"}
    made = {title(document) for document in find(found, "ConfigMap")}
    assert {name.rpartition("-")[0] for name in made} == {"ConfigMap driftloop", "ConfigMap redis"}
    for container in (container for pod in pods(found) for container in pod.spec["containers"]):
        assert ":" in container["image"], "every image has a tag, also what a component adds"
        for source in container.get("envFrom", ()):
            assert f"ConfigMap {source['configMapRef']['name']}" in made


@with_kustomize
def test_overlays_change_only_their_own_objects() -> None:
    base, demo, gpu, dask = ({title(d): d for d in build(TREE / folder)} for folder in BUILDS)
    assert set(demo) - set(base) == {"Job replay"}
    assert set(gpu) - set(base) == {"CronJob retrain"}
    assert gpu["Deployment retrainer"]["spec"]["replicas"] == 0
    assert gpu.pop("Deployment retrainer") != base["Deployment retrainer"]
    assert all(gpu[name] == document for name, document in base.items() if name in gpu)
    assert not set(base) - set(demo) and all(demo[name] == document for name, document in base.items())
    (config,) = (d for name, d in dask.items() if name.startswith("ConfigMap driftloop"))
    (before,) = (d for name, d in base.items() if name.startswith("ConfigMap driftloop"))
    assert config["data"].items() - before["data"].items() == {("DRIFTLOOP_RETRAIN__DASK", "tcp://dask-scheduler:8786")}
    assert settings_source.load(config["data"]).retrain.dask == "tcp://dask-scheduler:8786"


@with_kustomize
def test_components_can_be_combined(tmp_path: Path) -> None:
    tree = tmp_path / "kubernetes"
    shutil.copytree(TREE, tree)
    mine = tree / "overlays" / "mine"
    mine.mkdir()
    body = {
        "namespace": "driftloop",
        "resources": ["../../base"],
        "components": [f"../../components/{name}" for name in ("demo", "gpu", "dask", "images")],
    }
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    images = tree / "components" / "images" / "kustomization.yaml"
    text = images.read_text(encoding="utf-8")
    images.write_text(text.replace("newName: ", "newName: registry.example/"), encoding="utf-8")
    found = build(mine)
    assert {"CronJob retrain", "Job replay", "Deployment dask-worker"} <= {title(document) for document in found}
    used = {container["image"] for pod in pods(found) for container in pod.spec["containers"]}
    assert len(used) == 6
    assert all(image.startswith("registry.example/") for image in used), "one place names the registry"
    # All that the network check knows is one build.
    assert connections(found) == CONNECTIONS
