"""Bundles that their maker signed with the right key, and that must not be loaded all the same."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import msgspec
import numpy as np
import onnx
import pytest
import skops.io
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from driftloop.core.errors import DriftloopError
from driftloop.core.models import bundle as bundles
from driftloop.core.models.bundle import HEAD, MANIFEST, SIGNATURE, BundleError, load_bundle, manifest_digest
from driftloop.core.models.encoder import MODEL
from driftloop.core.models.head import MAX_UNPACKED_BYTES, load_head
from driftloop.core.models.manifest import file_digest, sign
from driftloop.core.models.onnx_export import exported_classifier
from driftloop.core.models.onnx_validation import check_graph
from driftloop.core.settings import ModelSettings
from tests import tiny
from tests.unit.core.test_bundle import write

GRAPH, TOKENS = f"{bundles.ENCODER}/model.onnx", f"{bundles.ENCODER}/tokenizer.json"


class Touch:
    """What a pickle can do: it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._marker,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def sign_again(folder: Path, change: Callable[[dict], None] = lambda manifest: None) -> None:
    """Write a manifest of what lies in the folder now, as a trainer in strange hands would, and sign it."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    inside = [path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, SIGNATURE)]
    manifest["files"] = {path.relative_to(folder).as_posix(): file_digest(path) for path in inside}
    change(manifest)
    body = msgspec.json.encode(manifest)
    (folder / MANIFEST).write_bytes(body)
    (folder / SIGNATURE).write_text(sign(body, tiny.KEY))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(folder, tiny.KEY)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and len(said) < 800, said


def a_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Touch(marker)))


def a_torch_file(path: Path, marker: Path) -> None:
    torch.save({"weights": Touch(marker)}, path)


def a_joblib_file(path: Path, marker: Path) -> None:
    joblib.dump(Touch(marker), path)


def code(path: Path, marker: Path) -> None:
    path.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")


MAKERS = {"pickle": a_pickle, "torch": a_torch_file, "joblib": a_joblib_file, "code": code}
NAMES = [HEAD, GRAPH, TOKENS, "model.pkl", "encoder/pytorch_model.bin", "weights.pt", "head.joblib", "modeling.py",
         "encoder/config.json", "model.safetensors", "MLmodel"]  # fmt: skip


def test_control_unsafe_loaders_execute_these_files(tmp_path: Path) -> None:
    for number, (maker, load) in enumerate(
        [
            (a_pickle, lambda path: pickle.loads(path.read_bytes())),
            (a_torch_file, lambda path: torch.load(path, weights_only=False)),
            (a_joblib_file, joblib.load),
            (code, lambda path: exec(path.read_text(), {})),
        ]
    ):
        path, marker = tmp_path / f"file{number}", tmp_path / f"ran{number}"
        maker(path, marker)
        load(path)
        assert marker.exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", MAKERS)
def test_code_is_refused_under_any_name(folder: Path, marker: Path, what: str, name: str) -> None:
    sign_again(folder)
    load_bundle(folder, tiny.KEY)
    (folder / name).unlink(missing_ok=True)
    MAKERS[what](folder / name, marker)
    sign_again(folder)
    refused(folder, "not safe to load" if name in (HEAD, GRAPH, TOKENS) else "made of nothing but")
    assert not marker.exists()


@pytest.mark.parametrize("function", [eval, exec, np.load, np.fromfile, skops.io.load, shutil.rmtree])
def test_head_with_dangerous_function_is_refused(folder: Path, function: Callable[..., object]) -> None:
    """Some of them live in packages that heads are made of; the control has one that only computes."""
    rows = tiny.window(60)

    def put(chosen: Callable[..., object] | np.ufunc) -> None:
        fitted = LogisticRegression().fit(rows.embeddings, rows.labels)
        pipeline = Pipeline([("first", FunctionTransformer(chosen)), ("then", fitted)])
        skops.io.dump({"estimator": pipeline, "vectorizer": None, "words": ""}, folder / HEAD)
        sign_again(folder)

    put(function)
    refused(folder, "types that are not trusted")
    put(np.positive)
    assert load_head(folder / HEAD).classes == tiny.LABELS


def graph_with(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(str(folder / GRAPH))
    change(model)
    (folder / GRAPH).unlink()
    (folder / GRAPH).write_bytes(model.SerializeToString())
    sign_again(folder)


@pytest.mark.parametrize("where", ["../../../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_graph_with_external_weights_is_refused(folder: Path, where: str) -> None:
    def outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", where

    graph_with(folder, outside)
    refused(folder, "weights in another file")


def test_nested_external_weights_are_found(tmp_path: Path) -> None:
    """In a branch, and in a constant; the control has the same branch with weights of its own."""
    for hidden in (True, False):
        tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
        if hidden:
            tensor.external_data.add(key="location", value="/etc/passwd")
        constant = helper.make_node("Constant", [], ["x"], value=tensor)
        inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])])
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        (tmp_path / MODEL).write_bytes(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
        if hidden:
            with pytest.raises(ValueError, match="weights in another file"):
                check_graph(tmp_path / MODEL)
        else:
            check_graph(tmp_path / MODEL)


def test_graph_with_custom_operators_or_functions_is_refused(folder: Path) -> None:
    def foreign(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = "evil.example"

    def own(model: onnx.ModelProto) -> None:
        model.functions.add(name="f", domain="ai.onnx")

    pristine = (folder / GRAPH).read_bytes()
    graph_with(folder, foreign)
    refused(folder, r"operators of b'evil\.example'")
    (folder / GRAPH).write_bytes(pristine)
    graph_with(folder, own)
    refused(folder, "custom functions")
    (folder / GRAPH).write_bytes(pristine)
    graph_with(folder, lambda model: None)
    load_bundle(folder, tiny.KEY)


@pytest.mark.parametrize("name", [HEAD, GRAPH, TOKENS])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_empty_or_truncated_file_is_refused(folder: Path, name: str, share: float) -> None:
    body = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(body[: int(len(body) * share)])
    sign_again(folder)
    refused(folder, "not safe to load")


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"model": {"type": "None"}}', b"\xff", b"[" * 100_000])
def test_invalid_tokenizer_file_is_refused(folder: Path, body: bytes) -> None:
    (folder / TOKENS).unlink()
    (folder / TOKENS).write_bytes(body)
    sign_again(folder)
    refused(folder, "not safe to load")


def test_head_that_is_zip_bomb_is_refused(folder: Path) -> None:
    """Archive is small on disk and would unpack beyond the limit."""
    with zipfile.ZipFile(folder / HEAD, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb", "w") as bomb:
        for _ in range(MAX_UNPACKED_BYTES // (16 * 1024 * 1024) + 1):
            bomb.write(bytes(16 * 1024 * 1024))
    assert (folder / HEAD).stat().st_size < 2 * 1024 * 1024, "it is small as it lies there"
    sign_again(folder)
    refused(folder, "unpacks to more than")


def test_symbolic_link_in_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    """Link is refused although the manifest names it with the right digest."""
    elsewhere = tmp_path / "elsewhere.json"
    shutil.move(folder / TOKENS, elsewhere)
    (folder / TOKENS).symlink_to(elsewhere)
    sign_again(folder)
    refused(folder, "holds a symbolic link")


@pytest.mark.parametrize(
    "name", ["../outside.json", "/etc/passwd", "encoder/../../x", "encoder/./model.onnx", "", "a\x1b[2J"]
)
def test_manifest_with_unsafe_path_is_refused(folder: Path, name: str) -> None:
    sign_again(folder, lambda manifest: manifest["files"].update({name: "0" * 64}))
    refused(folder, "made of nothing but")


@pytest.mark.parametrize(
    "change",
    [
        {"canary": {"texts": ["t"] * 101, "probabilities": []}},
        {"canary": {"texts": ["t" * 10_001], "probabilities": []}},
        {"max_tokens": 10**9},
        {"max_tokens": 0},
        {"head": "pickle"},
        {"auto_map": {}, "format": 2},
    ],
)
def test_manifest_with_invalid_fields_is_refused(folder: Path, change: dict) -> None:
    sign_again(folder, lambda manifest: manifest.update(change))
    refused(folder, "does not fit this version")


def test_manifest_that_omits_a_file_is_refused(folder: Path) -> None:
    (folder / "more.txt").write_text("x")
    sign_again(folder, lambda manifest: manifest["files"].pop("more.txt"))
    refused(folder, "its manifest does not name: more.txt")
    (folder / "more.txt").unlink()
    sign_again(folder, lambda manifest: manifest["files"].pop(GRAPH))
    refused(folder, f"lacks {GRAPH}")
    sign_again(folder)
    assert load_bundle(folder, tiny.KEY).labels and manifest_digest(folder)


def hub(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.classifier_folder(), tmp_path / "hub"))


def first_champion(folder: Path, tmp_path: Path) -> None:
    exported_classifier(str(folder), tmp_path / "graph", ModelSettings(max_tokens=tiny.MAX_TOKENS, quantise=False))


@pytest.mark.slow
def test_first_champion_requires_safetensors_weights(tmp_path: Path, marker: Path) -> None:
    folder = hub(tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(DriftloopError, match=r"with safetensors and no custom code"):
        first_champion(folder, tmp_path)
    torch.save({**weights, "more": Touch(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(DriftloopError, match=r"with safetensors and no custom code"):
        first_champion(folder, tmp_path)
    assert not marker.exists()


@pytest.mark.slow
def test_first_champion_with_custom_code_is_refused(tmp_path: Path, marker: Path) -> None:
    """Its config names a class in a file beside it, as `trust_remote_code` would run it; control: no such line."""
    folder = hub(tmp_path)
    code(folder / "modeling_own.py", marker)
    first_champion(folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_own.C", "AutoModelForSequenceClassification": "modeling_own.M"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": names, "model_type": "own-thing"}))
    with pytest.raises(DriftloopError, match=r"with safetensors and no custom code"):
        first_champion(folder, tmp_path)
    assert not marker.exists()
