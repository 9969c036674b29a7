"""Energy and money, estimated from measured CPU seconds. Nothing here is measured but the CPU seconds themselves."""

from __future__ import annotations

from dataclasses import dataclass

WATTS = 3.5
"""Of one vCPU at full load: the average that the Cloud Carbon Footprint methodology derives for AWS from SPECpower
(appendix I; 3.76 for Azure)."""
OVERHEAD = 1.56
"""What a data centre draws for each watt of its computers: the average of Uptime Institute's survey of 2024."""
PRICE = 0.05
"""US dollars for one vCPU for one hour: a round figure near the list prices of general-purpose virtual machines of the
large clouds; an assumption, no quotation."""


@dataclass(frozen=True)
class Rates:
    """What CPU time is multiplied with."""

    watts: float = WATTS
    """Of one busy core."""
    price: float = PRICE
    """Of one core for one hour."""
    currency: str = "USD"

    def watt_hours(self, cpu_seconds: float) -> float:
        """Energy of the cores alone."""
        return cpu_seconds * self.watts / 3600

    def cost(self, cpu_seconds: float) -> float:
        """Money for as many core hours, as if no core were ever paid for and idle."""
        return cpu_seconds / 3600 * self.price
