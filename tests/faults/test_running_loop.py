"""The whole loop while things happen to it: the same code as `make test-faults` and `make soak`, for a minute."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from benchmarks.harness.loop_under_load import LoopUnderLoad
from benchmarks.resilience.fault_matrix import Fault, inject_fault
from benchmarks.resilience.soak import KEEP_HOURS, soak
from driftloop.core.settings import Settings
from driftloop.devstack.stack import EmbeddedStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAULTS = [
    Fault("scorer", "acknowledged", "kill"),
    Fault("monitor", "sent", "kill"),
    Fault("Kafka", "sent", "kill"),
    Fault("Valkey", "mid-batch", "kill"),
]


def fresh(stack: EmbeddedStack, **more: float) -> Settings:
    mark = uuid.uuid4().hex[:8]
    return stack.settings(Settings(stream=f"loop-{mark}", topic_prefix=f"l{mark}.", **more))  # type: ignore[arg-type]


def test_process_and_service_crashes_lose_no_event(private_stack: EmbeddedStack, tmp_path: Path) -> None:
    """Processes and services are killed at the worst moments of their work."""
    with LoopUnderLoad(private_stack, fresh(private_stack), tmp_path, rate=40, rows=20_000) as running:
        for fault in FAULTS:
            row = inject_fault(running, fault)
            assert not row.findings and row.recovery is not None, row


def test_minute_of_random_faults_leaves_clean_audit(private_stack: EmbeddedStack, tmp_path: Path) -> None:
    said: list[str] = []
    done = soak(
        private_stack, fresh(private_stack, keep_hours=KEEP_HOURS), tmp_path, 60, 7, 40, said.append, pause=(6, 10)
    )
    assert done.clean and len(said) >= 5, (said, done)
    assert done.audit.counts["events"] > 500
