"""The hosted CI's workflow: its commands are the Makefile's, and a tag publishes only what has passed.

Each check takes the files that have to agree and returns what is wrong there, in words. It runs on the real files,
where it must find nothing, and on copies of them that are broken in one place, where it must say so.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

import driftloop

ROOT = Path(__file__).parents[3]
GATES = {"lint", "fast"}
NIGHTLY = {"lint", "all"}
ON_A_TAG = "github.ref_type == 'tag'"
AT_NIGHT = f"github.event_name == 'schedule' || {ON_A_TAG}"
BUILD, ATTEST, RELEASE = "docker/build-push-action", "actions/attest-build-provenance", "softprops/action-gh-release"

Json = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """The texts that have to agree."""

    workflow: str
    makefile: str
    script: str
    dockerfile: str
    compose: str

    @cached_property
    def document(self) -> Json:
        """The workflow, read."""
        return yaml.safe_load(self.workflow)

    @property
    def jobs(self) -> dict[str, Json]:
        """Its jobs, by name."""
        return self.document["jobs"]

    def steps(self) -> Iterator[tuple[str, Json, Json]]:
        """The name of a job, the job, and each of its steps."""
        for name, job in self.jobs.items():
            for step in job["steps"]:
                yield name, job, step

    @cached_property
    def targets(self) -> dict[str, list[str]]:
        """The Makefile's targets, each with what it needs first."""
        rules = re.findall(r"^([A-Za-z0-9][\w./-]*)[ ]*:(?!=)([^#\n]*)", self.makefile, re.MULTILINE)
        return {target: first.split() for target, first in rules}

    def closure(self, target: str) -> set[str]:
        """The target and everything that make runs before it."""
        return {target}.union(*(self.closure(first) for first in self.targets.get(target, ())))

    def commands(self) -> Iterator[tuple[str, Json, Json, list[str]]]:
        """Every step that runs make, with the targets that it names."""
        for name, job, step in self.steps():
            if "run" in step and is_make(step["run"]):
                yield name, job, step, [word for word in step["run"].split()[1:] if "=" not in word]

    def using(self, action: str) -> Iterator[tuple[Json, Json]]:
        """The jobs and steps that use an action."""
        for _, job, step in self.steps():
            if step.get("uses", "").partition("@")[0] == action:
                yield job, step


def is_make(command: str) -> bool:
    """Whether a command is `make`, targets, and then variables with plain values."""
    return re.fullmatch(r"make( [a-z0-9][a-z0-9-]*)+( [A-Z_]+=[\w./:@-]*)*", command) is not None


# --- checks ---------------------------------------------------------------------------------------------------------


def wrong_commands(files: Files) -> list[str]:
    """What is not the Makefile's, or runs otherwise than by its command."""
    out = []
    for name, _, step in files.steps():
        if ("run" in step) == ("uses" in step):
            out.append(f"{name}: a step either runs or uses something")
        elif "run" in step and not is_make(step["run"]):
            out.append(f"{name}: not make and its targets: {step['run']}")
        if "run" in step and not step.keys() <= {"name", "run", "env"}:
            out.append(f"{name}: more than a command: {sorted(step)}")
    for name, _, step, targets in files.commands():
        out += [f"{name}: the Makefile has no target {target}" for target in targets if target not in files.targets]
        given = {word.partition("=")[0] for word in step["run"].split() if "=" in word} | step.get("env", {}).keys()
        out += [
            f"{name}: the Makefile has no variable {variable}"
            for variable in sorted(given)
            if not re.search(rf"\$\({variable}\)|\$\${variable}\b|^{variable} *[?:]?=", files.makefile, re.MULTILINE)
        ]
    for name, part in {"the workflow": files.document, **files.jobs}.items():
        out += [f"{name}: {key} changes what a command does" for key in ("defaults", "container") if key in part]
    return out


def wrong_gates(files: Files) -> list[str]:
    """What .ci/run runs and the workflow does not, on every push."""
    out = []
    lines = [line for line in files.script.splitlines() if line and not line.startswith("#")]
    if lines[-1] != "exec make test":
        out.append(f".ci/run ends with: {lines[-1]}")
    out += [f"make test is without {gate}" for gate in sorted(GATES - files.closure("test"))]
    out += [f"make test-all is without {gate}" for gate in sorted(NIGHTLY - files.closure("test-all"))]
    nightly = {target for _, job, _, targets in files.commands() if job.get("if") == AT_NIGHT for target in targets}
    out += [f"no night runs make {target}" for target in sorted({"test-all", "coverage"} - nightly)]
    run: set[str] = set()
    for _, job, step, targets in files.commands():
        if not any("if" in part or part.get("continue-on-error") for part in (job, step)):
            run.update(*(files.closure(target) for target in targets))
    wanted = {"test", "images", "test-compose", "dist", "sbom", "audit-dependencies"} | files.closure("test")
    out += [f"no push runs make {target}" for target in sorted(wanted - run)]
    if not re.search(r"^\t\$\(UV\) audit --locked ", files.makefile, re.MULTILINE):
        out.append("make audit-dependencies does not ask about what is locked")
    if "audit-dependencies" in files.closure("test"):
        out.append("make test needs a network")
    # PyYAML reads the key `on` as the truth value.
    events = files.document.get(True, files.document.get("on"))
    out += [f"{event} starts nothing" for event in ("push", "pull_request", "schedule") if event not in events]
    if not all(time.get("cron") for time in events.get("schedule") or [{}]):
        out.append("schedule starts nothing")
    if (events.get("push") or {}).get("tags") != ["v*"]:
        out.append("a tag v* starts nothing")
    return out


def wrong_limits(files: Files) -> list[str]:
    """Jobs that may do more, or for longer, than they need, and actions that can change under our feet."""
    out = [] if files.document.get("permissions") == {} else ["the workflow gives every job permissions"]
    for name, job in files.jobs.items():
        granted = job.get("permissions")
        if not isinstance(granted, dict):
            out.append(f"{name}: no permissions of its own")
        elif job.get("if") != ON_A_TAG and granted != {"contents": "read"}:
            out.append(f"{name}: may write, and runs on every push")
        if not isinstance(job.get("timeout-minutes"), int):
            out.append(f"{name}: no timeout-minutes")
        if "if" in job and job["if"] not in (ON_A_TAG, AT_NIGHT):
            out.append(f"{name}: runs when {job['if']}")
    for name, _, step in files.steps():
        used = step.get("uses")
        if used and not re.search(rf"uses: {re.escape(used)} # v\d+\.\d+\.\d+\n", files.workflow):
            out.append(f"{name}: {used} is without the version as a comment")
        if used and not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", used):
            out.append(f"{name}: {used} is not pinned to a commit")
    secrets = set(re.findall(r"secrets\s*[.\[]\s*['\"]?(\w+)", files.workflow)) - {"GITHUB_TOKEN"}
    return out + [f"needs the secret {secret}" for secret in sorted(secrets)]


def wrong_images(files: Files) -> list[str]:
    """Images that docker-compose.yml uses and the workflow does not build or publish."""
    out = []
    services = yaml.safe_load(files.compose)["services"].values()
    used = {service["build"]["target"]: service["image"] for service in services if "build" in service}
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", files.dockerfile, re.MULTILINE))
    out += [f"the Dockerfile has no target {target}" for target in sorted(used.keys() - stages)]
    out += [f"{image} is not driftloop-{target}" for target, image in used.items() if image != f"driftloop-{target}"]
    recipe = re.search(r"^images:.*\n((?:\t.*\n)*)", files.makefile, re.MULTILINE)
    if recipe is None or recipe[1].strip() != "docker compose build":
        out.append("make images does not build what docker-compose.yml uses")

    builds = list(files.using(BUILD))
    if len(builds) != 1:
        return [*out, f"{len(builds)} steps publish images"]
    job, step = builds[0]
    matrix = set(job["strategy"]["matrix"]["target"])
    out += [f"not published: {target}" for target in sorted(used.keys() - matrix)]
    out += [f"published and not used: {target}" for target in sorted(matrix - used.keys())]
    if job["env"]["IMAGE"] != "ghcr.io/${{ github.repository_owner }}/driftloop-${{ matrix.target }}":
        out.append(f"published as {job['env']['IMAGE']}")
    wanted = {"context": ".", "target": "${{ matrix.target }}", "push": True, "sbom": True, "provenance": "mode=max"}
    out += [f"publishing is without {key}: {value}" for key, value in wanted.items() if step["with"].get(key) != value]
    proof = {"subject-name": "${{ env.IMAGE }}", "subject-digest": f"${{{{ steps.{step['id']}.outputs.digest }}}}"}
    attested = [other["with"] for where, other in files.using(ATTEST) if where is job]
    if not any(proof.items() <= given.items() and given.get("push-to-registry") for given in attested):
        out.append("no signed provenance of the images")
    return out


def wrong_release(files: Files) -> list[str]:
    """What a release does not wait for, or leaves unsigned."""

    def before(name: str) -> set[str]:
        needs = files.jobs[name].get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        return set(needs).union(*(before(need) for need in needs))

    out = []
    always = {name for name, job in files.jobs.items() if job.get("if") in (None, AT_NIGHT)}
    for name in files.jobs.keys() - always:
        out += [f"{name} does not wait for {need}" for need in sorted(always - before(name))]

    for job, _ in files.using(ATTEST):
        missing = {scope for scope in ("id-token", "attestations") if job["permissions"].get(scope) != "write"}
        out += [f"provenance cannot be signed without {scope}: write" for scope in sorted(missing)]
    signed = [step["with"].get("subject-path") for _, step in files.using(ATTEST)]
    if "dist/*" not in signed:
        out.append("no signed provenance of the wheel")
    releases = [(name, step) for name, _, step in files.steps() if step.get("uses", "").startswith(f"{RELEASE}@")]
    if len(releases) != 1:
        return [*out, f"{len(releases)} steps make a release"]
    name, step = releases[0]
    out += [f"the release does not wait for {need}" for need in sorted(files.jobs.keys() - {name} - before(name))]
    if step["with"].get("files") != "dist/*" or not step["with"].get("fail_on_unmatched_files"):
        out.append("the release is without the wheel and its SBOM")

    builds = [(step, targets) for _, _, step, targets in files.commands() if {"dist", "sbom"} & set(targets)]
    if not any(targets == ["dist", "sbom"] for _, targets in builds):
        out.append("the SBOM is not made after, and with, the wheel")
    kept = [step["with"].get("path") for _, step in files.using("actions/upload-artifact")]
    if "dist/" not in kept:
        out.append("the wheel and its SBOM are not kept")
    if not any("github.ref_name" in str(step.get("env", {}).get("TAG")) for step, _ in builds):
        out.append("nothing compares the tag with the version")
    return out


CHECKS = (wrong_commands, wrong_gates, wrong_limits, wrong_images, wrong_release)


def problems(files: Files) -> list[str]:
    """Everything that is wrong."""
    return [problem for check in CHECKS for problem in check(files)]


# --- the real files, and broken ones --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files() -> Files:
    paths = (".github/workflows/ci.yml", "Makefile", ".ci/run", "Dockerfile", "docker-compose.yml")
    return Files(*((ROOT / path).read_text(encoding="utf-8") for path in paths))


def test_workflow_passes_every_check(files: Files) -> None:
    """The workflow runs the Makefile's commands, and publishes only after all jobs have passed."""
    assert problems(files) == []


def test_there_is_no_other_workflow() -> None:
    assert [path.name for path in (ROOT / ".github" / "workflows").rglob("*") if path.is_file()] == ["ci.yml"]


def test_pre_commit_hooks_equal_make_lint_tools(files: Files) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)*)", files.makefile, re.MULTILINE)
    assert recipe is not None
    linters = {line.split(")")[1].split()[0] for line in recipe[1].splitlines()}
    assert {hook["entry"].removeprefix(".venv/bin/").split()[0] for hook in hooks} == linters and len(linters) == 4


CACHE = "actions/cache@27d5ce7f107fe9357f9df03efb73ab90386fccae # v5.0.5"
BREAKAGES = [
    # Commands
    ("workflow", "run: make lint", "run: pip install ruff", "lint: not make and its targets: pip install ruff"),
    ("workflow", "run: make lint", "run: make lnit", "lint: the Makefile has no target lnit"),
    ("workflow", "run: make lint", "run: make lint && true", "lint: not make and its targets: make lint && true"),
    ("workflow", "run: make lint", "run: make lint ARGS=$(id)", "lint: not make and its targets: make lint ARGS=$(id)"),
    ("workflow", "run: make lint", "run: make lint SPEED=1", "lint: the Makefile has no variable SPEED"),
    ("workflow", "run: make lint", "run: make lint\n        env: {MAKEFLAGS: -n}", "has no variable MAKEFLAGS"),
    ("workflow", "run: make lint", "run: make lint\n        shell: echo {0}", "lint: more than a command"),
    ("workflow", "run: make lint", "run: |\n          make lint\n          ruff .", "lint: not make and its targets"),
    ("workflow", "\njobs:", "\ndefaults: {run: {shell: cat}}\njobs:", "the workflow: defaults changes what"),
    ("makefile", "\nlint:", "\nlints:", "lint: the Makefile has no target lint"),
    # Gates
    ("workflow", "run: make test\n", "run: make unit\n", "no push runs make fast"),
    ("workflow", "  test:\n", "  test:\n    if: false\n", "no push runs make fast"),
    ("workflow", "  test:\n", "  test:\n    continue-on-error: true\n", "no push runs make fast"),
    ("workflow", "run: make test-all\n", "run: make test\n", "no night runs make test-all"),
    ("workflow", f"    if: {AT_NIGHT}\n", f"    if: {ON_A_TAG}\n", "no night runs make test-all"),
    ("workflow", "    - cron:", "    - crom:", "schedule starts nothing"),
    ("workflow", "      - run: make test-compose\n", "", "no push runs make test-compose"),
    ("workflow", "      - run: make images\n", "", "no push runs make images"),
    ("workflow", "      - run: make audit-dependencies\n", "", "no push runs make audit-dependencies"),
    ("makefile", "audit --locked", "audit", "make audit-dependencies does not ask about what is locked"),
    ("makefile", "lint fast ##", "lint fast audit-dependencies ##", "make test needs a network"),
    ("workflow", "  pull_request:\n", "", "pull_request starts nothing"),
    ("workflow", 'tags: ["v*"]', "tags: []", "a tag v* starts nothing"),
    ("script", "exec make test", "exec make unit", ".ci/run ends with: exec make unit"),
    ("makefile", "setup lint fast", "setup lint", "make test is without fast"),
    ("makefile", "setup lint all", "setup lint fast", "make test-all is without all"),
    # Limits
    ("workflow", "    timeout-minutes: 20\n", "", "lint: no timeout-minutes"),
    ("workflow", "    permissions: {contents: read}\n", "", "lint: no permissions of its own"),
    (
        "workflow",
        "    permissions: {contents: read}\n",
        "    permissions: write-all\n",
        "lint: no permissions of its own",
    ),
    ("workflow", "permissions: {contents: read}", "permissions: {contents: write}", "lint: may write"),
    ("workflow", "\npermissions: {}\n", "\npermissions: write-all\n", "the workflow gives every job permissions"),
    ("workflow", CACHE, "actions/cache@main", "lint: actions/cache@main is not pinned to a commit"),
    ("workflow", CACHE, "actions/cache@v5 # v5.0.5", "lint: actions/cache@v5 is not pinned to a commit"),
    ("workflow", CACHE, CACHE.partition(" #")[0], "is without the version as a comment"),
    ("workflow", "secrets.GITHUB_TOKEN", "secrets.REGISTRY_TOKEN", "needs the secret REGISTRY_TOKEN"),
    # Images
    ("workflow", "retrainer, api, mlflow]", "retrainer, api]", "not published: mlflow"),
    ("workflow", "retrainer, api, mlflow]", "retrainer, api, mlflow, base]", "published and not used: base"),
    ("dockerfile", "AS api\n", "AS web\n", "the Dockerfile has no target api"),
    ("compose", "target: producer}", "target: replayer}", "not published: replayer"),
    ("makefile", "docker compose build\n", "docker compose build api\n", "make images does not build"),
    ("workflow", "          sbom: true\n", "", "publishing is without sbom: True"),
    ("workflow", "provenance: mode=max", "provenance: false", "publishing is without provenance: mode=max"),
    ("workflow", "target: ${{ matrix.target }}\n", "target: api\n", "publishing is without target"),
    ("workflow", "steps.push.outputs.digest", "steps.names.outputs.digest", "no signed provenance of the images"),
    # Release
    ("workflow", "needs: [lint, test, ", "needs: [lint, ", "publish-images does not wait for test"),
    ("workflow", "test-all, audit", "audit", "publish-images does not wait for test-all"),
    ("workflow", "needs: [publish-images, attest]", "needs: [attest]", "the release does not wait for publish-images"),
    ("workflow", f"if: {ON_A_TAG}", "if: always()", "publish-images: runs when always()"),
    ("workflow", "id-token: write, ", "", "provenance cannot be signed without id-token: write"),
    ("workflow", "subject-path: dist/*", "subject-path: dist/*.tar.gz", "no signed provenance of the wheel"),
    ("workflow", "files: dist/*", "files: dist/*.whl", "the release is without the wheel and its SBOM"),
    ("workflow", "run: make dist sbom", "run: make dist", "no push runs make sbom"),
    ("workflow", "run: make dist sbom", "run: make sbom dist", "the SBOM is not made after, and with, the wheel"),
    ("workflow", "          path: dist/\n", "          path: docs/\n", "the wheel and its SBOM are not kept"),
    ("workflow", "TAG: ${{", "ARGS: ${{", "nothing compares the tag with the version"),
]


@pytest.mark.parametrize(("file", "old", "new", "said"), BREAKAGES, ids=[f"{b[0]}: {b[3]}" for b in BREAKAGES])
def test_control_file_with_one_breakage_is_reported(files: Files, file: str, old: str, new: str, said: str) -> None:
    text = getattr(files, file)
    assert old in text
    found = problems(replace(files, **{file: text.replace(old, new, 1)}))
    assert any(said in problem for problem in found), found


# --- what is locked -------------------------------------------------------------------------------------------------


def unproved(lock: str) -> list[str]:
    """Packages of a lock whose files could be others than those that were locked."""
    out = []
    for package in tomllib.loads(lock)["package"]:
        if "registry" not in package["source"]:
            out += [package["name"]] if package["source"] != {"editable": "."} else []
            continue
        found = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
        if not found or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", file.get("hash", "")) for file in found):
            out.append(package["name"])
    return out


def test_every_locked_file_has_a_digest() -> None:
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert lock.count("sha256:") > 1000 and unproved(lock) == []
    first = re.search(r'hash = "sha256:[0-9a-f]{64}", ', lock)
    assert first is not None
    assert len(unproved(lock.replace(first[0], "", 1))) == 1, "the control: one digest is gone"
    registry = re.search(r'source = \{ registry = "[^"]*" \}', lock)
    assert registry is not None
    assert len(unproved(lock.replace(registry[0], 'source = { git = "https://example.org/x" }', 1))) == 1


# --- the tag and the version ----------------------------------------------------------------------------------------


def test_package_version_equals_pyproject_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert driftloop.__version__ == project["version"]


@pytest.mark.parametrize(
    ("tag", "built"),
    [("", True), ("v1.2.3", True), ("v1.2.4", False), ("1.2.3", False), ("v1.2.3rc1", False), ("v1.2.3$(id)", False)],
)
def test_tag_other_than_version_is_not_built(tmp_path: Path, tag: str, built: bool) -> None:
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\n[ "$1" = version ] && echo 1.2.3 || echo "$@" >> "$0.log"\n')
    uv.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "TAG": tag}
    ended = subprocess.run(
        ["make", "dist", f"UV={uv}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode == 0) == built, ended.stderr
    assert Path(f"{uv}.log").exists() == built
    assert built or f"The tag {tag} is not v1.2.3, the version in pyproject.toml" in ended.stderr
