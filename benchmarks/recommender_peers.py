"""RecTools and RePlay under the protocol, beside ours: `python -m benchmarks.recommender_peers [--data NAME ...] [--quick]`.

Each peer learns from the events before an origin, in an environment of its own (benchmarks/training_peers.py says where; this command makes what
is missing), stops by its own validation (the last event of some users) or at a cap of CPU seconds, and leaves the best 20 items of every user: with
repeats for `again`, without the user's history for `discover`. A peer does not know the lead: one ranking of an origin serves every lead. Our own
code scores them. Three origins of each data set, evenly spread, the last among them; one seed, one thread.

Writes benchmarks/results/recommender_peers.json. A finished cell (data set, peer, origin) is kept below benchmarks/results/cells/recommender_peers/,
named by the digest of its settings and of the code that answers; it holds the figure of each user. Rows `gain of ndcg@10` hold ours against a peer on
the same users, averaged over the seeds that `benchmarks.recommender` has kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

SETTINGS = {
    "width": 64,
    "blocks": 2,
    "heads": 2,
    "length": 50,
    "batch": 32,
    "dropout": 0.2,
    "learning_rate": 1e-3,
    "max_epochs": 100,
    "patience": 2,  # epochs without a better validation
    "validation_users": 1_000,
    "cpu_seconds": 1_200,  # of fitting, so that a peer stops by its validation; the epoch under way is finished
    "seed": 0,
}
SHARED_NEGATIVES = 1_024  # of RePlay; RecTools takes the full softmax, which costs it less than negatives of each position and is no worse
TOP = 20
NUM_ORIGINS = 3
PEERS = ("rectools:sasrec", "rectools:esasrec", "rectools:hstu", "rectools:bert4rec", "replay:sasrec")
PACKAGES = {  # what pip is asked for, one call a line
    "rectools": ("torch==2.13.0", "rectools[torch]==0.19.0"),
    "replay": ("torch==2.13.0", "replay-rec[torch]==0.22.0"),
    "recbole": (  # without what it pins: versions that pip cannot find together
        "torch==2.13.0",
        "--no-deps recbole==1.2.1",
        "numpy==1.26.4 pandas<3 scipy tqdm colorlog==4.7.2 colorama==0.4.4 pyyaml scikit-learn tensorboard thop tabulate plotly texttable psutil",
        "setuptools<81 ray==2.6.3 msgpack click jsonschema",
    ),
}
ANSWERED_BY = {"recbole": Path(__file__).with_name("peer_recbole.py")}  # else by this file
OURS = "perennial"
CELLS = Path("cells", "recommender_peers")  # below the results


class PeerFailedError(Exception):
    """A peer left no ranking; says why."""


def main() -> None:
    from benchmarks.machine import ROOT, about_cells, command_of, write_results
    from benchmarks.recommender import DATA_SETS, our_users, parameters_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="peers")
    parser.add_argument("--origins", type=int, choices=range(1, NUM_ORIGINS + 1), default=NUM_ORIGINS, help="the last so many of the three origins")
    parser.add_argument("--stored", action="store_true", help="write what an interrupted run has finished; nothing is fitted")
    parser.add_argument("--quick", action="store_true", help="the last origin and a tenth of the CPU time")
    parser.add_argument("--storage", default=str(ROOT / ".perennial" / "benchmarks"), help="folder of intermediate tables")
    asked = parser.parse_args()
    os.environ.setdefault("PERENNIAL_DATA", str((ROOT / ".." / "shared" / "data").resolve()))
    settings = {**SETTINGS, "cpu_seconds": SETTINGS["cpu_seconds"] / 10} if asked.quick else SETTINGS
    configs = {name: parameters_of(name, asked.storage, quick=False) for name in asked.data}
    events = {name: accepted(config) for name, config in configs.items()}
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in asked.data}
    for back in range(1, 1 + (1 if asked.quick else asked.origins)):  # the last origins first: what is interrupted is comparable
        for name, config in configs.items():
            origin = evenly_spread(config.evaluation.origins)[-back]
            found = (cell_of(config, events[name], peer, origin, settings, only_stored=asked.stored) for peer in asked.peers)
            cells[name] += [cell for cell in found if cell]
    rows: list[dict[str, Any]] = []
    for name, config in configs.items():
        found = [cell for cell in cells[name] if cell["rows"]]  # a failed one has none
        rows += [{**row, "epochs": cell["epochs"], "stopped": cell["stopped"]} for cell in found for row in cell["rows"]]
        rows += pooled(config, events[name], found)
    ours = [cell for config in configs.values() for cell in our_users(config).values()]
    about = about_cells([*(cell for found in cells.values() for cell in found if cell["rows"]), *ours])
    print(write_results("recommender_peers_quick" if asked.quick else "recommender_peers", command=command_of("recommender_peers"), rows=rows, **about))


def evenly_spread(origins: tuple[date, ...]) -> tuple[date, ...]:
    """Three of the origins, as far apart as they allow, the last among them."""
    step = max(1, len(origins) // NUM_ORIGINS)
    return tuple(reversed(origins[::-1][::step][:NUM_ORIGINS]))


def accepted(config: Any) -> Any:
    """Events of a data set as the pipeline cleans them, by time, ties in source order."""
    import polars as pl

    from contracts import columns as c
    from flows.local_environment import use_local_stores

    use_local_stores(config.storage_root)
    from flows.partial_runs import validate_only

    _, validated = validate_only(config)
    columns = [c.USER_ID, c.ITEM_ID, c.EVENT_TIME, c.EVENT_TYPE]
    return pl.scan_parquet(validated.accepted.parts()).select(columns).collect().sort(c.EVENT_TIME, maintain_order=True)


# ---- one cell ------------------------------------------------------------------------------------------------------------------


def cell_of(config: Any, interactions: Any, peer: str, origin: date, settings: dict[str, Any], *, only_stored: bool = False) -> dict[str, Any]:
    """A peer at an origin: what fitting took, its figures and those of each user. Read where it was measured before.

    A failure is a cell that says so, and is not kept. `only_stored`: empty where it was not measured before.
    """
    from benchmarks.figures_of_users import figures_of_users, windows_of
    from benchmarks.machine import RESULTS, kept_cell

    about = {"dataset": config.name, "model": peer, "origin": origin.isoformat()}
    path = RESULTS / CELLS / f"{config.name}-{peer.replace(':', '-')}-{origin}-{digest_of(config.name, peer, origin.isoformat(), settings)}.json"

    def fitted() -> dict[str, Any]:
        ranked, cost = ranked_by(peer, interactions, config, origin, settings)
        if ranked is None:
            raise PeerFailedError(cost["failed"])
        rows = [row for row in measured({peer: ranked}, config, interactions, (origin,), model=peer) if row["origin"] == origin.isoformat()]
        print(path.stem, cost, {f"{row['list']} {row['lead_days']}": round(row["value"], 4) for row in rows}, flush=True)
        return {**about, **cost, "users": figures_of_users(ranked, windows_of(interactions, at_origins(config, [origin]))), "rows": rows}

    if only_stored and not path.exists():
        return {}
    try:
        return kept_cell(path, fitted)
    except PeerFailedError as error:
        print(f"{path.stem}: {error}", file=sys.stderr, flush=True)
        return {**about, "failed": str(error), "rows": []}


def at_origins(config: Any, origins: Sequence[date]) -> Any:
    """The same parameters at some of the origins."""
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"origins": tuple(origins)})})


def digest_of(dataset: str, peer: str, origin: str, settings: dict[str, Any]) -> str:
    """Digest of what a peer is asked and of the code that answers in its environment."""
    from contracts.artifacts import text_digest

    other_side = ANSWERED_BY.get(peer.split(":", maxsplit=1)[0], Path(__file__)).read_text(encoding="utf-8").split("# ---- the other side")[-1]
    return text_digest(json.dumps({"dataset": dataset, "model": peer, "origin": origin, **settings}), other_side)


def ranked_by(peer: str, interactions: Any, config: Any, origin: date, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Rankings of a peer fitted on the events before an origin, and what they took; None and why where it failed."""
    import polars as pl

    library, model = peer.split(":")
    python = environment_of(library)
    known, users = split(interactions, config, origin)
    codes = {column: known[column].unique().sort() for column in ("user_id", "item_id")}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        coded(known, codes).write_csv(folder / "events.csv")
        coded(users, codes).write_csv(folder / "users.csv")
        (folder / "ask.json").write_text(json.dumps({**settings, "library": library, "model": model, "at": int(epoch(origin))}))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [python, ANSWERED_BY.get(library, Path(__file__)).resolve(), folder], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None, {"failed": "\n".join(done.stderr.strip().splitlines()[-3:]) or str(done.returncode)}
        cost = dict(json.loads((folder / "cost.json").read_text()))
        return decoded(pl.read_csv(folder / "rankings.csv"), codes, leads_of(config, interactions, origin), origin), cost


def split(interactions: Any, config: Any, origin: date) -> tuple[Any, Any]:
    """Events before the origin, and the users with such events who come back in any of its windows (their ids only)."""
    import polars as pl

    from evaluation.targets import before, within

    known = before(interactions, origin).collect()
    windows = [within(interactions, origin, lead, config.evaluation.horizon_days) for lead in leads_of(config, interactions, origin)]
    users = pl.concat(windows).select("user_id").unique().sort("user_id").collect()
    return known, users.join(known.select("user_id").unique(), on="user_id", how="semi").sort("user_id")


def leads_of(config: Any, interactions: Any, origin: date) -> tuple[int, ...]:
    """Leads whose whole window lies in the data."""
    from evaluation.origins import leads_that_fit

    return leads_that_fit(origin, interactions["event_time"].max().date(), config.evaluation)


def epoch(day: date) -> float:
    return (day - date(1970, 1, 1)).days * 86_400


def coded(table: Any, codes: dict[str, Any]) -> Any:
    """Numbers for ids: user and item are places in `codes`, `at` is seconds; rows stay in order."""
    import polars as pl

    names = {"user_id": "user", "item_id": "item"}
    columns = [pl.lit(codes[name]).search_sorted(pl.col(name)).alias(names[name]) for name in names if name in table.columns]
    if "event_time" in table.columns:
        columns.append(pl.col("event_time").dt.epoch("s").alias("at"))
    return table.select(columns)


def decoded(ranked: Any, codes: dict[str, Any], leads: tuple[int, ...], origin: date) -> Any:
    """Rankings as the evaluation takes them: ids for numbers, the same lists at every lead."""
    import polars as pl

    table = ranked.select(
        pl.lit(origin).alias("cutoff"),
        pl.col("list"),
        user_id=pl.lit(codes["user_id"]).gather(pl.col("user")),
        item_id=pl.lit(codes["item_id"]).gather(pl.col("item")),
        rank=pl.col("rank").cast(pl.Int32),
    )
    return pl.concat(table.with_columns(pl.lit(origin + timedelta(days=lead)).alias("request_date")) for lead in leads)


def environment_of(library: str) -> Path:
    """Interpreter of a library's environment, made with pip where it is missing."""
    from benchmarks.training_peers import HOME

    python = Path(os.environ.get(f"{library.upper()}_PYTHON", HOME / library / "bin" / "python"))
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        for package in PACKAGES[library]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *package.split()], check=True)
    return python


# ---- figures -------------------------------------------------------------------------------------------------------------------


def measured(rankings: dict[str, Any], config: Any, interactions: Any, origins: tuple[date, ...], *, model: str) -> list[dict[str, Any]]:
    """NDCG@10 of rankings of the same windows, with intervals, and the gain of `model` over each of the others."""
    from evaluation.evaluation import evaluate

    settings = config.evaluation.model_copy(update={"origins": origins, "tune_until": None, "slices": False, "baselines": (), "season_lift": False})
    result = evaluate(rankings, interactions, settings, model=model, dataset=config.name, target_events=config.fine_tuning.target_events, seed=config.seed)
    rows = [row.model_dump() for row in result.rows if row.metric == "ndcg@10"]
    rows += [
        {**one.model_dump(), "dataset": config.name, "origin": "all", "metric": f"gain of {one.metric}", "value": one.relative}
        for one in result.comparisons
        if one.metric == "ndcg@10"
    ]
    return rounded(rows)


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with six digits of each figure."""
    return [{key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()} for row in rows]


def pooled(config: Any, interactions: Any, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows pooled over the origins, of all peers that were measured at each of them; with ours among them, and its gains, where its figures were kept."""
    from benchmarks.figures_of_users import figures, gains, windows_of
    from benchmarks.recommender import tables_with_ours

    origins = sorted({date.fromisoformat(cell["origin"]) for cell in cells})
    by_peer = {peer: [cell for cell in cells if cell["model"] == peer] for peer in dict.fromkeys(cell["model"] for cell in cells)}
    whole = {peer: {"users": together(found)} for peer, found in by_peer.items() if len(found) == len(origins)}
    if not whole:
        return []
    tables = tables_with_ours(config, windows_of(interactions, at_origins(config, origins)), whole)
    if OURS not in tables:
        print(f"{config.name}: no figures of our users were kept (python -m benchmarks.recommender); peers stand alone", file=sys.stderr)
    return rounded(figures(config, tables) + (gains(config, tables, OURS) if OURS in tables else []))


def together(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Figures of users of all windows of some cells."""
    return {key: values for cell in cells for key, values in cell["users"].items()}


# ---- the other side: only what the environment of the peer holds ---------------------------------------------------------------


def answer(folder: Path) -> None:
    """Fit the peer that ask.json names on events.csv; leave rankings.csv (list, user, item, rank) and cost.json."""
    import warnings

    warnings.filterwarnings("ignore")
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    asked = json.loads((folder / "ask.json").read_text())
    events = pd.read_csv(folder / "events.csv")
    users = pd.read_csv(folder / "users.csv")["user"].to_numpy()
    ranked, cost = (_replay if asked["library"] == "replay" else _rectools)(events, users, asked, folder)
    ranked[["list", "user", "item", "rank"]].to_csv(folder / "rankings.csv", index=False)
    (folder / "cost.json").write_text(json.dumps(cost))


def _watch(base: type, asked: dict[str, Any], monitor: str, sign: float) -> Any:
    """Callback: keep the best weights by validation; stop without a better one, or when the CPU seconds are spent."""
    started = time.process_time()

    class Watch(base):  # type: ignore[misc]
        seen: dict[str, Any] = {"validation": [], "best": None, "stopped": "most epochs"}  # noqa: RUF012  of the class: RecTools trains with copies of what it is given

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            values = self.seen["validation"]
            values.append(round(float(trainer.callback_metrics[monitor]), 5))
            scores = [sign * value for value in values]
            if scores[-1] == max(scores):
                self.seen["best"] = {name: value.detach().clone() for name, value in module.state_dict().items()}
            if len(scores) - 1 - scores.index(max(scores)) >= asked["patience"]:
                self.seen["stopped"], trainer.should_stop = "no better validation", True
            elif time.process_time() - started > asked["cpu_seconds"]:
                self.seen["stopped"], trainer.should_stop = f"cap of {asked['cpu_seconds']} CPU seconds", True

        def cost(self) -> dict[str, Any]:
            values = self.seen["validation"]
            return {
                "epochs": len(values),
                "stopped": self.seen["stopped"],
                "validation": values,
                "monitor": monitor,
                "cpu_seconds": round(time.process_time() - started, 1),
            }

    return Watch()


def _rectools(events: Any, users: Any, asked: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    import pandas as pd
    import pytorch_lightning
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
    from rectools.models.nn.transformers.ligr import LiGRLayers
    from rectools.models.nn.transformers.utils import leave_one_out_mask

    pytorch_lightning.seed_everything(asked["seed"], workers=True)
    watch = _watch(pytorch_lightning.Callback, asked, "val_loss", -1.0)
    table = events.rename(columns={"user": Columns.User, "item": Columns.Item}).assign(
        **{Columns.Weight: 1, Columns.Datetime: pd.to_datetime(events["at"], unit="s")}
    )
    dataset = Dataset.construct(table.drop(columns="at"))
    kinds = {
        "sasrec": (SASRecModel, {}),
        "esasrec": (SASRecModel, {"transformer_layers_type": LiGRLayers}),
        "hstu": (HSTUModel, {"relative_time_attention": True, "relative_pos_attention": True}),
        "bert4rec": (BERT4RecModel, {"mask_prob": 0.2}),
    }
    kind, given = kinds[asked["model"]]
    model = kind(
        n_blocks=asked["blocks"],
        n_heads=asked["heads"],
        n_factors=asked["width"],
        dropout_rate=asked["dropout"],
        session_max_len=asked["length"],
        lr=asked["learning_rate"],
        batch_size=asked["batch"],
        epochs=asked["max_epochs"],
        loss="softmax",
        dataloader_num_workers=0,
        get_val_mask_func=leave_one_out_mask,
        get_val_mask_func_kwargs={"val_users": min(asked["validation_users"], table[Columns.User].nunique() // 2)},
        get_trainer_func=lambda: pytorch_lightning.Trainer(callbacks=[watch], max_epochs=asked["max_epochs"], num_sanity_val_steps=0, **_quiet()),
        **given,
    )
    model.fit(dataset)
    cost = watch.cost()
    model.lightning_model.load_state_dict(watch.seen["best"])
    context = {}
    if getattr(model, "require_recommend_context", False):
        context = {"context": pd.DataFrame({Columns.User: users, Columns.Datetime: pd.to_datetime(asked["at"], unit="s"), Columns.Weight: 0})}
    lists = []
    for name in ("again", "discover"):
        given = {key: value.copy() for key, value in context.items()}
        found = model.recommend(users=users, dataset=dataset, k=TOP, filter_viewed=name == "discover", on_unsupported_targets="ignore", **given)
        lists.append(found.rename(columns={Columns.User: "user", Columns.Item: "item", Columns.Rank: "rank"}).assign(list=name))
    return pd.concat(lists), cost


def _replay(events: Any, users: Any, asked: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    import lightning
    import pandas as pd
    import polars as pl
    from replay.data import FeatureHint, FeatureType
    from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
    from replay.nn import loss as losses
    from replay.nn.lightning import LightningModule
    from replay.nn.lightning.callback import ComputeMetricsCallback, PandasTopItemsCallback
    from replay.nn.lightning.optimizer import OptimizerFactory
    from replay.nn.lightning.postprocessor import SeenItemsFilter
    from replay.nn.sequential import SasRec
    from replay.nn.transform import UniformNegativeSamplingTransform
    from replay.nn.transform.template import make_default_sasrec_transforms

    lightning.seed_everything(asked["seed"], verbose=False)
    number, length = int(events["item"].max()) + 1, asked["length"]
    sequences = pl.from_pandas(events).group_by("user", maintain_order=True).agg(item_id=pl.col("item")).rename({"user": "user_id"})
    long = sequences.filter(pl.col("item_id").list.len() >= 3)
    held_out = long.sample(min(asked["validation_users"], long.height // 2), seed=asked["seed"])["user_id"].implode()
    last = pl.col("item_id").list
    checked = long.filter(pl.col("user_id").is_in(held_out)).select("user_id", last.slice(0, last.len() - 1).list.tail(length), ground_truth=last.tail(1))
    checked.write_parquet(folder / "validate.parquet")
    without = pl.when(pl.col("user_id").is_in(held_out)).then(last.slice(0, last.len() - 1)).otherwise(pl.col("item_id"))
    learned = sequences.select("user_id", without.list.tail(length + 1).alias("item_id")).filter(last.len() >= 2)
    learned.write_parquet(folder / "train.parquet")
    seen = sequences.filter(pl.col("user_id").is_in(pl.Series(users).implode())).select("user_id", last.tail(length), seen_ids=last.unique())
    seen.write_parquet(folder / "predict.parquet")
    most = int(seen["seen_ids"].list.len().max())
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
    transforms["train"].insert(-1, UniformNegativeSamplingTransform(number, SHARED_NEGATIVES))
    history = {"shape": length, "padding": number}
    data = ParquetModule(
        train_path=str(folder / "train.parquet"),
        validate_path=str(folder / "validate.parquet"),
        batch_size=asked["batch"],
        metadata={
            "train": {"item_id": {"shape": length + 1, "padding": number}},
            "validate": {"item_id": history, "ground_truth": {"shape": 1, "padding": -1}},
        },
        transforms=transforms,
    )
    network = SasRec.from_params(
        schema=schema,
        embedding_dim=asked["width"],
        max_sequence_length=length,
        num_heads=asked["heads"],
        num_blocks=asked["blocks"],
        dropout=asked["dropout"],
    )
    network.loss = losses.CESampled(ignore_index=number)
    network.loss.logits_callback = network.get_logits
    watch = _watch(lightning.Callback, asked, "ndcg@10", 1.0)
    module = LightningModule(network, optimizer_factory=OptimizerFactory(learning_rate=asked["learning_rate"]))
    check = ComputeMetricsCallback(metrics=["ndcg"], ks=[10], verbose=False)
    lightning.Trainer(max_epochs=asked["max_epochs"], callbacks=[check, watch], num_sanity_val_steps=0, **_quiet()).fit(module, datamodule=data)
    cost = watch.cost()
    module.load_state_dict(watch.seen["best"])
    lists = []
    for name in ("again", "discover"):
        top = PandasTopItemsCallback(
            top_k=TOP,
            query_column="user_id",
            item_column="item_id",
            rating_column="score",
            postprocessors=[SeenItemsFilter(number)] if name == "discover" else None,
        )
        asking = ParquetModule(
            predict_path=str(folder / "predict.parquet"),
            batch_size=256,
            transforms=make_default_sasrec_transforms(schema),
            metadata={"predict": {"user_id": {}, "item_id": history, "seen_ids": {"shape": most, "padding": number}}},
        )
        lightning.Trainer(callbacks=[top], inference_mode=True, **_quiet()).predict(module, datamodule=asking, return_predictions=False)
        found = top.get_result()
        found["rank"] = found.groupby("user_id")["score"].rank(method="first", ascending=False).astype(int)
        lists.append(found.rename(columns={"user_id": "user", "item_id": "item"}).assign(list=name))
    return pd.concat(lists), cost


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
    if len(sys.argv) == 2 and (Path(sys.argv[1]) / "ask.json").exists():
        answer(Path(sys.argv[1]))
    else:
        main()
