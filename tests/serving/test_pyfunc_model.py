"""The registered model loads without pickle and gives the recommender's own lists."""

import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contracts.errors import BundleError, TransientError
from features.vocabulary import grow_vocabulary
from serving.recommender import Recommender
from serving.registered_model import BUNDLE, CODE_PATHS, INPUT_EXAMPLE, PIP_REQUIREMENTS, PYFUNC_FILE
from serving.served_models import ServedModels
from tests.serving.hand_made import events, write_networks, write_small_bundle

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:mlflow")]
ITEMS = [f"i{number}" for number in range(6)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    taste = np.random.default_rng(0).normal(size=(7, 3))
    write_networks(folder / "networks", taste, season={"season_sin_1": (0.0, 0.0), "trend_log_level_1w": (1.0, 1.0)}, habit={"habit_log_baskets": 1.0})
    bought = [
        ("ann", "i1", "2024-05-01"),
        ("ann", "i2", "2024-06-01"),
        ("bob", "i3", "2024-06-29"),
        ("bob", "i4", "2024-06-30"),
        ("bob", "i5", "2024-03-01"),
        ("ann", "i0", "2024-02-01"),
    ]
    write_small_bundle(folder / "bundle", folder / "networks", events(bought), grow_vocabulary(None, pl.LazyFrame({"item_id": ITEMS})))
    return folder / "bundle"


@pytest.fixture(scope="module")
def tracking_uri(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store in which the bundle is registered as version 1, the champion."""
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.sqlite'}"
    before, registry_before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)  # a registry set by an earlier test is another one
    mlflow.create_experiment("serving", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("serving")
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="recommender",
            python_model=PYFUNC_FILE,
            artifacts={BUNDLE: str(bundle)},
            code_paths=CODE_PATHS,
            input_example=INPUT_EXAMPLE,
            pip_requirements=PIP_REQUIREMENTS,
            registered_model_name="shop",
        )
    mlflow.MlflowClient().set_registered_model_alias("shop", "champion", "1")
    yield uri
    mlflow.set_tracking_uri(before)
    mlflow.set_registry_uri(registry_before)


def test_the_registered_model_gives_the_recommenders_lists(bundle: Path, tracking_uri: str) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model("models:/shop@champion")
    recommender = Recommender.load(bundle)
    requests = [
        {"date": "2024-07-01", "user_id": "ann", "k": 3, "list": "discover"},
        {"date": "2024-12-01", "user_id": "ann", "k": 2, "exclude": ["i2"]},
        {"date": "2024-07-01", "user_id": "nobody", "k": 4},
        {"date": "2024-12-01", "history": [{"item_id": "i3", "event_time": "2024-06-01T10:00:00+00:00", "event_type": "purchase"}], "k": 3},
        {"date": "2024-12-01", "user_id": "ann", "k": 2},
    ]
    answers = model.predict(requests)
    first = recommender.rank(["ann"], request_date=date(2024, 7, 1), list_name="discover", k=3)
    assert answers[0].model_dump()["items"] == first.select("rank", "item_id", "score", "taste", "habit", "season").to_dicts()
    assert [item.item_id for item in answers[1].items] == recommender.rank(["ann"], request_date=date(2024, 12, 1), k=2, exclude=["i2"])["item_id"].to_list()
    assert {item.taste for item in answers[2].items} == {0.0}
    assert answers[3].items[0].taste != 0
    assert [item.item_id for item in answers[4].items] == recommender.rank(["ann"], request_date=date(2024, 12, 1), k=2)["item_id"].to_list()


def test_nothing_in_the_registered_model_is_pickled(bundle: Path, tracking_uri: str) -> None:
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts("models:/shop@champion"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    assert mlflow.models.get_model_info("models:/shop@champion").signature is not None


def test_the_registry_loads_an_alias_once_and_then_without_mlflow(tracking_uri: str, tmp_path: Path) -> None:
    from serving.registry import ModelRegistry

    registry = ModelRegistry(tracking_uri, "shop", tmp_path / "cache")
    loaded = registry.load_at("champion")
    assert loaded.version == "1"
    assert registry.cached_versions() == ["1"]
    offline = ModelRegistry("http://127.0.0.1:9", "shop", tmp_path / "cache")
    assert offline.load("1").ref.digest == loaded.ref.digest
    with pytest.raises(TransientError, match="MLflow does not answer"):
        offline.version_at("champion")
    models = ServedModels(offline, alias="champion", challenger_alias="challenger", cache=tmp_path / "cache", threads=1, today=lambda: date(2024, 7, 4))
    models.start()
    assert models.champion is not None
    assert (models.champion.version, models.registry_answers) == ("1", False)


def test_a_missing_alias_is_named(tracking_uri: str, tmp_path: Path) -> None:
    from serving.registry import ModelRegistry

    registry = ModelRegistry(tracking_uri, "shop", tmp_path)
    assert registry.version_at("nobody") is None
    with pytest.raises(BundleError, match=r"models:/shop@nobody: no such alias"):
        registry.load_at("nobody")
    assert json.dumps(registry.cached_versions()) == "[]"
