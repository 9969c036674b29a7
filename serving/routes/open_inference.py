"""Open Inference Protocol, version 2, over HTTP, for clients of KServe, Triton, MLServer and Seldon.

The server has one model, with its name in the registry. Its input is `text` (BYTES). Its outputs are `label` (BYTES)
and `probabilities` (FP32, one column per class in the order of the metadata). Tensors are JSON, or binary if the
request asks for it (Triton's extension for binary tensors). The specification is in
github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response

import driftloop
from driftloop.core.models.bundle import BundleClassifier
from serving.http.auth import Caller
from serving.inference import Scored
from serving.routes import AppContext, problems

TEXT, LABEL, PROBABILITIES = "text", "label", "probabilities"
HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the bytes of the JSON at the start of a body; binary tensors follow."""


class Tensor(msgspec.Struct, kw_only=True):
    """Input tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class RequestedOutput(msgspec.Struct, kw_only=True):
    """Output tensor that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, kw_only=True):
    """JSON part of a request."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


_EXAMPLE = {"inputs": [{"name": TEXT, "shape": [1], "datatype": "BYTES", "data": ["my flight was delayed again"]}]}
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": {
            "type": "object", "required": ["name", "shape", "datatype", "data"], "properties": {
                "name": {"type": "string"}, "shape": {"type": "array", "items": {"type": "integer"}},
                "datatype": {"type": "string"}, "data": {"type": "array"},
            },
        }},
    },
}, "example": _EXAMPLE}}}}  # fmt: skip


def router(context: AppContext) -> APIRouter:
    """Return the routes below `/v2`."""
    routes = APIRouter(tags=["Open Inference Protocol"])
    viewer = context.authenticator.require_role("viewer")
    errors = problems(401, 403, 404, 429, 503)
    name = context.settings.model_name
    most = context.settings.api.max_texts

    def find(asked: str, version: str | None) -> BundleClassifier:
        """Return the champion.

        Args:
            asked: Name of the model in the request.
            version: Its version in the request; `None` for any.

        Raises:
            HTTPException: 404 for another model or version, 503 before the first model.
        """
        if asked != name:
            raise HTTPException(404, f"There is no model {asked[:100]!r}: the only model is {name}.")
        model = context.predictor.champion()
        if version is not None and version != model.version:
            raise HTTPException(404, f"Version {version[:20]!r} does not serve: the champion is {model.version}.")
        return model

    @routes.get("/v2/health/live")
    def live() -> dict[str, bool]:
        """Return true as long as the server answers."""
        return {"live": True}

    @routes.get("/v2/health/ready", responses=problems(503))
    def ready() -> dict[str, bool]:
        """Return true if a model can score, and 503 before the first model."""
        context.predictor.champion()
        return {"ready": True}

    @routes.get("/v2", dependencies=[viewer], responses=problems(401, 403, 429))
    def server() -> dict[str, Any]:
        """Return the name, the version and the extensions of the server."""
        return {"name": "driftloop", "version": driftloop.__version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/v2/models/{model}", dependencies=[viewer], responses=errors)
    @routes.get("/v2/models/{model}/versions/{version}", dependencies=[viewer], responses=errors)
    def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        """Return names, types and shapes of the tensors. -1 stands for any number of texts.

        \f
        Args:
            model: Name of the model.
            version: Its version; `None` for the champion.
        """
        found = find(model, version)
        return {
            "name": name,
            "versions": [found.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": TEXT, "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
                {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, len(found.labels)]},
            ],
            "parameters": {"labels": list(found.labels)},
        }

    @routes.get("/v2/models/{model}/ready", dependencies=[viewer], responses=errors)
    @routes.get("/v2/models/{model}/versions/{version}/ready", dependencies=[viewer], responses=errors)
    def model_ready(model: str, version: str | None = None) -> dict[str, Any]:
        """Return true if this model is the champion.

        \f
        Args:
            model: Name of the model.
            version: Its version; `None` for the champion.
        """
        find(model, version)
        return {"name": name, "ready": True}

    async def infer(
        request: Request,
        model: str,
        version: str | None = None,
        caller: Caller = viewer,
    ) -> Response:
        """Predict a tensor of texts.

        \f
        Args:
            request: The request; its body may be JSON and binary.
            model: Name of the model.
            version: Its version; `None` for the champion.
            caller: The client.
        """
        find(model, version)
        asked, texts = _read(await request.body(), request.headers.get(HEADER_LENGTH))
        if not 1 <= len(texts) <= most:
            raise HTTPException(422, f"The request has {len(texts)} texts. Between 1 and {most} are scored.")
        context.authenticator.count_request(caller, len(texts))
        return _response(name, asked, await context.predictor.predict(texts))

    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/json": {"schema": {"type": "object"}}}},
        **errors,
        **problems(413, 422),
    }
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        routes.add_api_route(path, infer, methods=["POST"], openapi_extra=_BODY, responses=answers)
    return routes


def _read(body: bytes, length: str | None) -> tuple[InferRequest, list[str]]:
    """Return the JSON of a request and its texts.

    Raises:
        HTTPException: 422 if the body does not follow the protocol.
    """
    size = len(body) if length is None else int(length) if length.isdecimal() else -1
    if not 0 <= size <= len(body):
        raise HTTPException(422, f"{HEADER_LENGTH} is not the length of the JSON in the body.")
    try:
        asked = msgspec.json.decode(body[:size], type=InferRequest)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"The JSON is no request of the protocol: {error}.") from error
    if [one.name for one in asked.inputs] != [TEXT] or asked.inputs[0].datatype != "BYTES":
        raise HTTPException(422, f"The request must have exactly one input, {TEXT!r} of BYTES.")
    unknown = {one.name for one in asked.outputs} - {LABEL, PROBABILITIES}
    if unknown:
        first = min(unknown)[:100]
        raise HTTPException(422, f"There is no output {first!r}. The outputs are {LABEL!r} and {PROBABILITIES!r}.")
    tensor = asked.inputs[0]
    texts = _unpack(body[size:]) if "binary_data_size" in tensor.parameters else _flat(tensor.data)
    number = int(np.prod(tensor.shape, dtype=object)) if tensor.shape else 1
    if number != len(texts):
        raise HTTPException(
            422, f"The shape of {TEXT!r} is {tensor.shape[:8]}, but the request has {len(texts)} texts."
        )
    return asked, texts


def _flat(data: Any) -> list[str]:
    """Return the texts of nested lists.

    Raises:
        HTTPException: 422 if there is something else than texts.
    """
    if isinstance(data, str):
        return [data]
    if not isinstance(data, list):
        raise HTTPException(422, f"The data of {TEXT!r} must be strings.")
    return [text for one in data for text in _flat(one)]


def _unpack(raw: bytes) -> list[str]:
    """Return the texts of a binary tensor: each follows its length in four bytes, little-endian.

    Raises:
        HTTPException: 422 if the tensor is truncated or no UTF-8.
    """
    texts, at = [], 0
    try:
        while at < len(raw):
            (size,) = struct.unpack_from("<I", raw, at)
            at += 4 + size
            if at > len(raw):
                raise ValueError("a text is truncated")
            texts.append(raw[at - size : at].decode())
    except (struct.error, ValueError) as error:
        raise HTTPException(422, f"The tensor {TEXT!r} cannot be read: {error}.") from error
    return texts


def _response(name: str, asked: InferRequest, scored: list[Scored]) -> Response:
    """Return the requested outputs, or all if none is requested, each as JSON or binary."""
    classes = list(scored[0].probabilities)
    rows = [[one.probabilities[label] for label in classes] for one in scored]
    everything: dict[str, tuple[str, list[int], list[Any]]] = {
        LABEL: ("BYTES", [len(scored)], [one.label for one in scored]),
        PROBABILITIES: ("FP32", [len(scored), len(classes)], [p for row in rows for p in row]),
    }
    chosen = asked.outputs or [RequestedOutput(name=one) for one in everything]
    outputs, raw = [], b""
    for one in chosen:
        datatype, shape, data = everything[one.name]
        tensor: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": shape}
        if one.parameters.get("binary_data", asked.parameters.get("binary_data_output", False)) is True:
            packed = _packed(data)
            tensor["parameters"] = {"binary_data_size": len(packed)}
            raw += packed
        else:
            tensor["data"] = data
        outputs.append(tensor)
    head = {"model_name": name, "model_version": scored[0].model_version, "outputs": outputs}
    body = msgspec.json.encode(head | ({"id": asked.id} if asked.id else {}))
    if not raw:
        return Response(body, media_type="application/json")
    return Response(body + raw, media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(body))})


def _packed(data: list[Any]) -> bytes:
    if data and isinstance(data[0], float):
        return np.asarray(data, dtype="<f4").tobytes()
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
