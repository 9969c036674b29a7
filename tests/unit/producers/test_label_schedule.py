"""Labels run behind the events, each exactly once."""

import pytest

from producers.label_schedule import LabelSchedule


@pytest.mark.parametrize("total", [0, 1, 7, 40])
@pytest.mark.parametrize("delay", [0, 1, 5, 60])
@pytest.mark.parametrize("bootstrap", [0, 1, 5, 60])
def test_labels_come_once_in_order_after_delay(total, delay, bootstrap):
    schedule = LabelSchedule(total, delay, bootstrap)
    sent = [(tick, position) for tick in range(schedule.ticks + 5) for position in schedule.due(tick)]
    assert [position for _, position in sent] == list(range(total))
    assert [tick - position for tick, position in sent] == [0 if p < bootstrap else delay for p in range(total)]
    assert schedule.ticks == (max(total, sent[-1][0] + 1) if sent else 0)
    for tick in range(schedule.ticks + 5):
        assert schedule.sent_before(tick) == sum(at < tick for at, _ in sent)
