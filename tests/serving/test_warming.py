"""A date that is asked for often is made ready in the background, and changes no list."""

import time
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.answers import Ask, answer_all
from serving.recommender import Recommender
from serving.service import create_app
from serving.settings import ServiceSettings
from serving.warming import ASKED_OFTEN, Warming, logger
from tests.serving.conftest import NOW, wait_until_ready
from tests.serving.small_shop import USERS

DAY = date(2024, 12, 5)


def test_a_date_is_warmed_once_it_was_asked_for_often_and_lists_stay_the_same(shop_bundle: Path, tmp_path: Path) -> None:
    model, warming = Recommender.load(shop_bundle), Warming(tmp_path)
    before = [answer.score.tolist() for answer in answer_all(model, [Ask(DAY, user) for user in USERS])]
    assert not any(warming.asked(model, DAY) for _ in range(ASKED_OFTEN - 1))
    assert not model.is_warm(DAY)
    thread = warming.asked(model, DAY)
    assert thread is not None
    thread.join(20)
    assert model.is_warm(DAY)
    assert warming.asked(model, DAY) is None
    assert [answer.score.tolist() for answer in answer_all(model, [Ask(DAY, user) for user in USERS])] == before


def test_dates_in_turn_are_warmed_one_at_a_time_with_a_rest(shop_bundle: Path, tmp_path: Path) -> None:
    model, now = Recommender.load(shop_bundle), [0.0]
    warming = Warming(tmp_path, rest_seconds=30, clock=lambda: now[0])
    threads = [thread for _ in range(ASKED_OFTEN) for day in range(3) if (thread := warming.asked(model, DAY + timedelta(days=day)))]
    assert len(threads) == 1
    threads[0].join(20)
    assert not any(warming.asked(model, DAY + timedelta(days=1)) for _ in range(2 * ASKED_OFTEN)), "within the rest"
    now[0] = 31
    thread = warming.asked(model, DAY + timedelta(days=1))
    assert thread is not None
    thread.join(20)
    assert model.is_warm(DAY + timedelta(days=1))


def test_a_date_that_cannot_be_warmed_is_reported_and_others_still_are(shop_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, warming = Recommender.load(shop_bundle), Warming(tmp_path, rest_seconds=0)
    monkeypatch.setattr(model, "warm", lambda *_, **__: (_ for _ in ()).throw(MemoryError("too large")))
    said: list[str] = []
    monkeypatch.setattr(logger, "exception", lambda text, *values: said.append(text % values))
    (thread,) = (thread for _ in range(ASKED_OFTEN) if (thread := warming.asked(model, DAY)))
    thread.join(20)
    assert said == ["2024-12-05 could not be warmed; its requests are answered one by one"]
    monkeypatch.undo()
    (thread,) = (thread for _ in range(ASKED_OFTEN) if (thread := warming.asked(model, DAY)))
    thread.join(20)
    assert model.is_warm(DAY)


def test_after_midnight_the_new_day_is_made_ready(settings: ServiceSettings) -> None:
    now: list[datetime] = [NOW]
    with TestClient(create_app(settings.model_copy(update={"poll_seconds": 0.05}), now=lambda: now[0])) as client:
        wait_until_ready(client)
        model = client.app.state.service.model()  # type: ignore[attr-defined]
        tomorrow = (NOW + timedelta(days=1)).date()
        assert model.is_warm(NOW.date())
        assert not model.is_warm(tomorrow)
        now[0] += timedelta(days=1)
        end = time.monotonic() + 10
        while not model.is_warm(tomorrow):
            assert time.monotonic() < end
            time.sleep(0.02)
