"""The service, the registered model and the published table give one and the same list."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from features.vocabulary import grow_vocabulary
from serving.compression import compress_bundle
from serving.recommender import Recommender
from serving.registered_model import BUNDLE, INPUT_EXAMPLE, PIP_REQUIREMENTS, PYFUNC_FILE
from serving.service import create_app
from serving.settings import ServiceSettings
from tests.serving.conftest import NOW, wait_until_ready
from tests.serving.hand_made import CUTOFF, events, write_networks, write_small_bundle

NUM_USERS, NUM_ITEMS = 1_000, 300
DAY = date(2024, 11, 28)


@pytest.fixture(scope="module")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(5)
    ids = [f"item {number:03d}" for number in range(NUM_ITEMS)]
    days = [date.fromordinal(CUTOFF.toordinal() - int(ago)).isoformat() for ago in rng.integers(1, 700, 20_000)]
    users, items = rng.integers(0, NUM_USERS, 20_000), (rng.zipf(1.4, 20_000) - 1) % NUM_ITEMS
    rows = sorted(zip((f"user {user:04d}" for user in users), (ids[item] for item in items), days, strict=True), key=lambda row: row[2])
    write_networks(
        folder / "networks",
        rng.normal(size=(NUM_ITEMS + 1, 16)) * 0.3,
        season={"season_last_year_lift": (1.0, 1.0), "trend_lift_4w": (0.5, 0.5)},
        habit={"habit_log_decayed_90d": 0.4, "habit_due": -0.5, "taste_0": 0.2, "season_index": 0.3},
        linear=np.abs(rng.normal(size=(NUM_ITEMS + 1, 20))) * (rng.random((NUM_ITEMS + 1, 20)) < 0.2),
        pool=range(5, 200),
        half_life_days=120.0,
        max_history=16,
    )
    write_small_bundle(folder / "bundle", folder / "networks", events(rows), grow_vocabulary(None, pl.LazyFrame({"item_id": ids})))
    return folder / "bundle"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:mlflow")
@pytest.mark.parametrize("form", ["full precision", "int8"])
def test_a_thousand_users_get_the_same_list_three_ways(large_bundle: Path, tmp_path: Path, form: str) -> None:
    """The registered artifact may be a smaller form: it is one and the same for the three."""
    import mlflow

    if form != "full precision":
        compress_bundle(large_bundle, tmp_path / "bundle", form=form)
        large_bundle = tmp_path / "bundle"
    recommender = Recommender.load(large_bundle)
    users = [f"user {number:04d}" for number in range(NUM_USERS)]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.sqlite'}")
    mlflow.create_experiment("parity", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("parity")
    try:
        with mlflow.start_run():
            logged = mlflow.pyfunc.log_model(
                name="recommender",
                python_model=PYFUNC_FILE,
                artifacts={BUNDLE: str(large_bundle)},
                input_example=INPUT_EXAMPLE,
                pip_requirements=PIP_REQUIREMENTS,
            )
        pyfunc = mlflow.pyfunc.load_model(logged.model_uri)
        settings = ServiceSettings(bundle=large_bundle, cache=tmp_path / "cache", log_folder=None, warm_year=False)
        with TestClient(create_app(settings, now=lambda: NOW)) as client:
            wait_until_ready(client)
            for list_name in ("again", "discover"):
                table = recommender.rank(users, request_date=DAY, list_name=list_name)
                published = {user: rows for (user,), rows in table.partition_by("user_id", as_dict=True).items()}
                registered = pyfunc.predict([{"date": DAY.isoformat(), "user_id": user, "list": list_name} for user in users])
                for user, answer in zip(users, registered, strict=True):
                    served = client.post("/recommend", json={"user_id": user, "date": DAY.isoformat(), "list": list_name}).json()["items"]
                    expected = published[user]
                    assert [item["item_id"] for item in served] == expected["item_id"].to_list() == [item.item_id for item in answer.items]
                    for part in ("score", "taste", "habit", "season"):
                        np.testing.assert_allclose([item[part] for item in served], expected[part], atol=1e-4)
                        np.testing.assert_allclose([getattr(item, part) for item in answer.items], expected[part], atol=1e-4)
    finally:
        mlflow.set_tracking_uri(before)


def test_a_list_asked_alone_is_that_of_the_table(large_bundle: Path) -> None:
    recommender = Recommender.load(large_bundle)
    table = recommender.rank(request_date=DAY)
    for user in recommender.users[::100]:
        alone = recommender.rank([user], request_date=DAY)
        assert alone["item_id"].to_list() == table.filter(pl.col("user_id") == user)["item_id"].to_list()
