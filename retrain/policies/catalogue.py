"""Catalogue of policies: make the configured one, or one of the user's own."""

from __future__ import annotations

from collections.abc import Callable

from driftloop.core import plugins
from driftloop.core.errors import DriftloopError
from driftloop.core.settings import RetrainSettings
from retrain.policies.base import Policy
from retrain.policies.builtin import Budgeted, CostAware, Never, Periodic
from retrain.policies.mixture_rounds import MixtureRounds
from retrain.policies.on_drift import OnDrift


def make_policy(settings: RetrainSettings) -> Policy:
    """Make the configured policy; a class of the user's own is called with ``settings``.

    Raises:
        DriftloopError: The class does not exist, cannot be made, or is not a policy.
    """
    on_drift: Policy = OnDrift(settings.cooldown, settings.search_rows, settings.window)
    if settings.learns_from_every_label:
        on_drift = MixtureRounds(settings.cooldown, settings.search_rows, settings.bootstrap)
    policies: dict[str, Policy] = {
        "never": Never(),
        "periodic": Periodic(settings.period),
        "on-drift": on_drift,
        "cost-aware": CostAware(on_drift, cost_of_error=settings.cost_of_error, cost_of_second=settings.cost_of_second),
    }
    chosen = policies.get(settings.policy) or make_custom(plugins.find("policies", settings.policy), settings)
    return Budgeted(chosen, settings.max_per_day) if settings.max_per_day else chosen


def make_custom(cls: Callable[[RetrainSettings], object], settings: RetrainSettings) -> Policy:
    """Make a policy of the user's own class.

    Args:
        cls: Class of the policy. It is called with ``settings``.
        settings: The [retrain] settings.

    Raises:
        DriftloopError: The class cannot be made, or is not a policy.
    """
    name = getattr(cls, "__qualname__", str(cls))
    try:
        policy = cls(settings)
    except Exception as error:  # code of the user may raise anything
        raise DriftloopError(
            f"The policy {name} cannot be made ({type(error).__name__}: {error}). Let it take one argument, the "
            "[retrain] settings."
        ) from error
    if not isinstance(policy, Policy):
        raise DriftloopError(f"{name} is not a policy. Give it `name` and `decide`.")
    return policy
