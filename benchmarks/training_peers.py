"""RePlay and RecTools for benchmarks.training, each in an environment of its own: they pin other versions of what the project uses.

    python -m venv ~/.cache/perennial/replay   && ~/.cache/perennial/replay/bin/pip install torch==2.13.0 'replay-rec[torch]==0.22.0'
    python -m venv ~/.cache/perennial/rectools && ~/.cache/perennial/rectools/bin/pip install torch==2.13.0 'rectools[torch]==0.19.0'

`benchmarks.training` finds them there, or where REPLAY_PYTHON and RECTOOLS_PYTHON name an interpreter, and calls this file with a folder:
`events.csv` (user, item, at) and `ask.json` lie there, `cost.json` is left. Measured is the median CPU time of an epoch of SASRec, one thread,
with each library's own loader and trainer.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOME = Path.home() / ".cache" / "perennial"
PEERS = {"replay": ("sampled_softmax", "full_softmax"), "rectools": ("sampled_softmax", "full_softmax")}


def cost_of(name: str, loss: str, interactions: Any, settings: dict[str, Any]) -> dict[str, Any] | str:
    """{model, seconds} of an epoch, or why there is none. `interactions` has user_id, item_id, event_time."""
    found = _asked(name, loss, interactions, settings)
    return found if isinstance(found, str) else {"model": found["model"], "seconds": sorted(found["seconds"])[len(found["seconds"]) // 2]}


def rankings_of(name: str, loss: str, interactions: Any, settings: dict[str, Any]) -> dict[str, Any] | str:
    """{model, seconds of all epochs, rankings: user_id, item_id, rank of the best `top` items the user has not had}, or why there is none."""
    found = _asked(name, loss, interactions, settings)
    return found if isinstance(found, str) else {**found, "seconds": sum(found["seconds"])}


def _asked(name: str, loss: str, interactions: Any, settings: dict[str, Any]) -> dict[str, Any] | str:
    python = Path(os.environ.get(f"{name.upper()}_PYTHON", HOME / name / "bin" / "python"))
    if not python.exists():
        return f"no environment at {python}; see benchmarks/training_peers.py"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        at = interactions["event_time"].dt.epoch("s")
        ids = {column: interactions[column].unique().sort() for column in ("user_id", "item_id")}
        codes = {column: ids[column].search_sorted(interactions[column]) for column in ids}
        interactions.select(user=codes["user_id"], item=codes["item_id"], at=at).write_csv(folder / "events.csv")
        (folder / "ask.json").write_text(json.dumps({"seed": 0, "top": 0, "learning_rate": 1e-3, **settings, "name": name, "loss": loss}))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run([python, Path(__file__).resolve(), folder], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"it failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        found: dict[str, Any] = json.loads((folder / "cost.json").read_text())
        if (folder / "rankings.csv").exists():
            found["rankings"] = _decoded(folder / "rankings.csv", ids)
        return found


def _decoded(path: Path, ids: dict[str, Any]) -> Any:
    import polars as pl

    table = pl.read_csv(path)
    return table.select(user_id=ids["user_id"].gather(table["user"]), item_id=ids["item_id"].gather(table["item"]), rank="rank")


# ---- the other side: only what the environment of the peer holds ---------------------------------------------------------------


def answer(folder: Path) -> None:
    import warnings

    warnings.filterwarnings("ignore")
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    asked = json.loads((folder / "ask.json").read_text())
    events = pd.read_csv(folder / "events.csv")
    model, seconds = (_replay if asked["name"] == "replay" else _rectools)(events, asked, folder)
    (folder / "cost.json").write_text(json.dumps({"model": model, "seconds": seconds}))


def _watch(base: type) -> Any:
    class Watch(base):  # type: ignore[misc]
        seconds: list[float] = []  # noqa: RUF012  of the class: RecTools trains with copies of what it is given

        def on_train_epoch_start(self, *_: Any) -> None:
            self.started = time.process_time()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds.append(time.process_time() - self.started)

    return Watch()


def _replay(events: Any, asked: dict[str, Any], folder: Path) -> tuple[str, list[float]]:
    import lightning
    import polars as pl
    from replay.data import FeatureHint, FeatureType
    from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
    from replay.data.nn.utils import groupby_sequences
    from replay.nn import loss as losses
    from replay.nn.lightning import LightningModule
    from replay.nn.lightning.optimizer import OptimizerFactory
    from replay.nn.sequential import SasRec
    from replay.nn.transform import UniformNegativeSamplingTransform
    from replay.nn.transform.template import make_default_sasrec_transforms

    lightning.seed_everything(asked["seed"], verbose=False)
    table = events.sort_values("at", kind="stable")
    table = table.assign(timestamp=table.groupby("user").cumcount()).rename(columns={"user": "user_id", "item": "item_id"})
    sequences = groupby_sequences(pl.from_pandas(table[["user_id", "item_id", "timestamp"]]), "user_id", "timestamp")
    number = int(events.item.max()) + 1
    sequences.select("user_id", "item_id").filter(pl.col("item_id").list.len() >= 2).write_parquet(folder / "train.parquet")
    schema = TensorSchema(
        [
            TensorFeatureInfo(
                name="item_id",
                is_seq=True,
                padding_value=number,
                cardinality=number,
                embedding_dim=asked["width"],
                feature_type=FeatureType.CATEGORICAL,
                feature_hint=FeatureHint.ITEM_ID,
            )
        ]
    )
    transforms = make_default_sasrec_transforms(schema)
    if asked["loss"] == "sampled_softmax":
        transforms["train"].insert(-1, UniformNegativeSamplingTransform(number, asked["negatives"]))
    data = ParquetModule(
        train_path=str(folder / "train.parquet"),
        batch_size=asked["batch"],
        metadata={"train": {"item_id": {"shape": asked["length"] + 1, "padding": number}}},
        transforms=transforms,
    )
    network = SasRec.from_params(
        schema=schema,
        embedding_dim=asked["width"],
        max_sequence_length=asked["length"],
        num_heads=asked["heads"],
        num_blocks=asked["blocks"],
        dropout=0.2,
    )
    if asked["loss"] == "sampled_softmax":
        network.loss = losses.CESampled(ignore_index=number)
        network.loss.logits_callback = network.get_logits
    watch = _watch(lightning.Callback)
    trainer = lightning.Trainer(max_epochs=asked["epochs"], callbacks=[watch], limit_val_batches=0, **_quiet())
    module = LightningModule(network, optimizer_factory=OptimizerFactory(learning_rate=asked["learning_rate"]))
    trainer.fit(module, datamodule=data)
    if asked["top"]:
        _replay_rankings(module, schema, sequences, number, asked, folder)
    return "RePlay 0.22.0 SASRec", watch.seconds


def _replay_rankings(module: Any, schema: Any, sequences: Any, number: int, asked: dict[str, Any], folder: Path) -> None:
    """rankings.csv: user, item, rank of the best items, those of the history left out."""
    import lightning
    import polars as pl
    from replay.data.nn import ParquetModule
    from replay.nn.lightning.callback import PandasTopItemsCallback
    from replay.nn.lightning.postprocessor import SeenItemsFilter
    from replay.nn.transform.template import make_default_sasrec_transforms

    seen = sequences.select("user_id", pl.col("item_id").list.tail(asked["length"]), seen_ids=pl.col("item_id").list.unique())
    seen.write_parquet(folder / "predict.parquet")
    most = int(seen["seen_ids"].list.len().max())
    top = PandasTopItemsCallback(
        top_k=asked["top"], query_column="user_id", item_column="item_id", rating_column="score", postprocessors=[SeenItemsFilter(number)]
    )
    history = {"shape": asked["length"], "padding": number}
    data = ParquetModule(
        predict_path=str(folder / "predict.parquet"),
        batch_size=256,
        transforms=make_default_sasrec_transforms(schema),
        metadata={"predict": {"user_id": {}, "item_id": history, "seen_ids": {"shape": most, "padding": number}}},
    )
    lightning.Trainer(callbacks=[top], inference_mode=True, **_quiet()).predict(module, datamodule=data, return_predictions=False)
    found = top.get_result()
    found["rank"] = found.groupby("user_id")["score"].rank(method="first", ascending=False).astype(int)
    found.rename(columns={"user_id": "user", "item_id": "item"})[["user", "item", "rank"]].to_csv(folder / "rankings.csv", index=False)


def _rectools(events: Any, asked: dict[str, Any], folder: Path) -> tuple[str, list[float]]:
    import pandas as pd
    import pytorch_lightning
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    watch = _watch(pytorch_lightning.Callback)
    table = events.rename(columns={"user": Columns.User, "item": Columns.Item}).assign(
        **{Columns.Weight: 1, Columns.Datetime: pd.to_datetime(events["at"], unit="s")}
    )
    sampled = {"loss": "sampled_softmax", "n_negatives": asked["negatives"]}
    model = SASRecModel(
        n_blocks=asked["blocks"],
        n_heads=asked["heads"],
        n_factors=asked["width"],
        dropout_rate=0.2,
        session_max_len=asked["length"],
        batch_size=asked["batch"],
        epochs=asked["epochs"],
        dataloader_num_workers=0,
        get_trainer_func=lambda: pytorch_lightning.Trainer(callbacks=[watch], max_epochs=asked["epochs"], **_quiet()),
        **(sampled if asked["loss"] == "sampled_softmax" else {"loss": "softmax"}),
    )
    model.fit(Dataset.construct(table.drop(columns="at")))
    return "RecTools 0.19.0 SASRec", watch.seconds


def _quiet() -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
