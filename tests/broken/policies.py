"""Policies with one fault each; all are called with the settings."""

from __future__ import annotations

from retrain.policies.base import ALWAYS, Retrain, Wait


class Calm:
    name = "calm"

    def __init__(self, settings: object) -> None:
        self.asked = 0

    def decide(self, now, alerts, outcomes):
        return Wait("nothing is to be done")


class Nameless(Calm):
    name = ""


class Hasty(Calm):
    def decide(self, now, alerts, outcomes):
        return Wait("nothing new") if now.past or outcomes else Retrain("why not", "hasty", ALWAYS)


class Silent(Calm):
    def decide(self, now, alerts, outcomes):
        return Wait("")


class Prophet(Calm):
    def decide(self, now, alerts, outcomes):
        return Retrain("it will drift", "prophet", 5000.0) if alerts and not now.past else Wait("no sign yet")


class Moody(Calm):
    def decide(self, now, alerts, outcomes):
        self.asked += 1
        return Wait(f"asked for the {self.asked}th time")


class Greedy(Calm):
    def decide(self, now, alerts, outcomes):
        alerts.clear()
        return Wait("seen")


class Endless(Calm):
    def decide(self, now, alerts, outcomes):
        return Retrain("there was an alert", alerts[-1].alert_id, alerts[-1].onset_at) if alerts else Wait("no alert")


class Unmakeable:
    name = "unmakeable"

    def decide(self, now, alerts, outcomes):
        return Wait("it takes no settings")
