"""Latency, throughput and memory of the HTTP service, on loopback with the load generator on the same machine.

    python -m benchmarks.serving                        # all of it -> benchmarks/results/serving.json
    python -m benchmarks.serving --quick                # short runs, without the million items and the 200,000 requests
    python -m benchmarks.serving --part growth          # one of forms, swaps, beside, million, growth; printed, not written
    python -m benchmarks.serving --train                # only train the model of 100,000 items, which the others do where it is not there

Models: one with 100,000 items trained by the pipeline (benchmarks/serving_parameters.yaml; trained once, then reused), one with 1,000,000 items of the real
shape (encoder of 64 numbers and 2 blocks exported by lightning_modules, a linear term over 4,096 popular items and 4,096 landmark users, season and habit
networks) with random weights, and a small one for the long run that looks for growth of memory.
The first also without its encoder, as the pipeline leaves a model where the encoder does not add.
Before anything is timed the service gets 200 requests and five seconds: by then it has made the date ready that is asked for (serving/warming.py).
Open loop: requests are sent at their planned times whether or not earlier ones came back, and latency counts from the planned time,
so a stall is not hidden by waiting clients. Closed loop: as many clients as said, each asks again when answered.
MLflow's scoring server and a LitServe wrapper serve the very bundle beside the service, in the same run; LitServe is installed into a folder of its own.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.machine import ROOT, write_results

PARAMETERS = ROOT / "benchmarks" / "serving_parameters.yaml"
WORK = ROOT / ".perennial" / "benchmarks" / "serving"
CUTOFF = date(2025, 7, 1)
WIDTH, BLOCKS, HISTORY, LANDMARKS, POOL = 64, 2, 64, 4_096, 4_096
WARM_UP, SETTLE = 200, 5  # requests, seconds
WRITTEN_AFTER = 11  # seconds: impressions that wait to be written are memory too


# ---- the model -----------------------------------------------------------------------------------------------------------


def write_model(folder: Path, num_items: int, num_users: int, events_per_user: int) -> Path:
    """A bundle of the real shape with random weights below `folder`; made once."""
    import numpy as np
    import polars as pl

    from features.habits import HABIT_INPUTS, habits
    from features.histories import histories
    from features.item_weeks import item_weeks
    from features.vocabulary import grow_vocabulary
    from serving.bundle import BundleMetadata, write_bundle

    target = folder / f"model-{num_items}"
    if (target / "bundle.json").is_file():
        return target
    rng = np.random.default_rng(0)
    num_events = num_users * events_per_user
    weight = np.cumsum(1 / np.arange(1, num_items + 1) ** 0.9)
    items = np.searchsorted(weight / weight[-1], rng.random(num_events)).clip(max=num_items - 1)
    ids = pl.Series([f"{number:08d}" for number in range(num_items)])
    events = pl.DataFrame(
        {
            "user_id": pl.Series([f"u{number:06d}" for number in range(num_users)])[rng.integers(0, num_users, num_events)],
            "item_id": ids[items],
            "event_time": np.datetime64(CUTOFF) - rng.integers(1, 730, num_events).astype("timedelta64[D]").astype("timedelta64[us]"),
            "event_type": pl.Series(["purchase"] * num_events),
            "quantity": 1.0,
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    vocabulary = grow_vocabulary(None, pl.LazyFrame({"item_id": ids}))
    write_networks(folder / "networks", rng, num_items, items, len(HABIT_INPUTS))
    lazy = events.lazy().sort("event_time", maintain_order=True)
    write_bundle(
        target,
        networks=folder / "networks",
        vocabulary=vocabulary,
        item_catalogue=vocabulary.select(
            "item_id",
            pl.format("department {} > aisle {}", pl.col("item_index") % 20, pl.col("item_index") % 400).alias("category"),
            pl.format("thing {}", "item_id").alias("title"),
        ),
        histories=histories(lazy, CUTOFF, 512).collect(),
        habits=habits(lazy, CUTOFF).collect(),
        item_weeks=item_weeks(lazy, CUTOFF).collect(),
        metadata=BundleMetadata(name="benchmark", cutoff=CUTOFF, horizon_days=28, created=datetime.now(UTC).isoformat(), config_digest="benchmark"),
    )
    return target


def write_networks(folder: Path, rng: Any, num_items: int, items: Any, num_habit_inputs: int) -> None:
    """Encoder, networks of rows and item tables of the real shape, random."""
    import numpy as np
    import scipy.sparse as sp
    import torch
    from safetensors.numpy import save_file

    from contracts.sections.training import EncoderConfig
    from features.habits import HABIT_INPUTS
    from features.season import SEASON_INPUTS
    from lightning_modules.export import export_encoder, export_rows
    from lightning_modules.head import PriorNetwork
    from lightning_modules.taste import build_taste

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    taste = build_taste(
        EncoderConfig(width=WIDTH, num_blocks=BLOCKS, max_history=HISTORY),
        torch.zeros(num_items + 1, 0, dtype=torch.long),
        num_items=num_items + 1,
        num_event_types=1,
    )
    export_encoder(taste, folder / "encoder.onnx")

    def network(num_inputs: int, num_outputs: int) -> PriorNetwork:
        ones = torch.ones(num_inputs)
        return PriorNetwork(num_outputs, 32, prior=torch.randn(num_outputs, num_inputs) * 0.05, bias=0.0, mean=ones * 0, deviation=ones, is_used=ones.bool())

    export_rows([network(len(SEASON_INPUTS), 2)], folder / "season.onnx", output="season")
    export_rows([network(num_habit_inputs + len(SEASON_INPUTS) + 2, 1)], folder / "habit.onnx", output="habit")
    counts = np.bincount(items + 1, minlength=num_items + 1)
    pool = np.sort(np.argsort(-counts, kind="stable")[:POOL])
    landmarks = sp.csr_array((np.ones(len(items), np.float32), (items + 1, rng.integers(0, LANDMARKS, len(items)))), shape=(num_items + 1, LANDMARKS))
    save_file(
        {
            "taste_items": (rng.normal(size=(num_items + 1, WIDTH)) * 0.2).astype(np.float32),
            "linear_items": pool.astype(np.int64),
            "linear_0_indptr": landmarks.indptr.astype(np.int64),
            "linear_0_indices": landmarks.indices.astype(np.int32),
            "linear_0_values": landmarks.data,
            "linear_0_out": (rng.normal(size=(len(pool), LANDMARKS)) * 0.01).astype(np.float32),
            "linear_0_self": np.full(len(pool), 0.1, np.float32),
        },
        folder / "vectors.safetensors",
    )
    lists = {name: {"encoder_weight": 0.5, "linear": [{"half_life_days": None, "weight": 0.7, "floor": 0.02}]} for name in ("again", "discover")}
    head = {"format": 2, "season_inputs": SEASON_INPUTS, "habit_inputs": HABIT_INPUTS, "event_types": {"purchase": 1}, "max_history": HISTORY, "lists": lists}
    (folder / "head.json").write_text(json.dumps(head))


# ---- processes -----------------------------------------------------------------------------------------------------------


@contextmanager
def service(port: int, *, workers: int = 1, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The service in a process of its own; gives the process and the seconds until it was ready."""
    given = {f"PERENNIAL_{name.upper()}": value for name, value in settings.items()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PERENNIAL_WARM_YEAR": "false", **given}
    command = [sys.executable, "-m", "serving", "--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/readyz")
            yield process, time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(40)


def wait_for(address: str, seconds: float = 180) -> None:
    """Until an address answers 200."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urlopen(address, timeout=2):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def memory_mib(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a process and its children, MiB."""
    import psutil

    found = psutil.Process(process.pid)
    return round(sum(one.memory_info().rss for one in [found, *found.children(recursive=True)]) / 2**20, 1)


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of a process and its children so far: what requests cost whatever else the machine does."""
    import psutil

    found = psutil.Process(process.pid)
    times = [one.cpu_times() for one in [found, *found.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


# ---- load ----------------------------------------------------------------------------------------------------------------


class Client:
    """One kept-alive HTTP/1.1 connection; no library in the way of the measurement."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Status of a POST."""
        if self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(
            b"POST "
            + path.encode()
            + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


@dataclass(frozen=True)
class Model:
    """What requests are made of: a bundle's users and items, and the date asked for."""

    name: str
    bundle: Path
    users: Sequence[str]
    items: Sequence[str]
    day: date

    @classmethod
    def of(cls, name: str, bundle: Path) -> "Model":
        """The model of a bundle."""
        from serving.bundle import HABITS, VOCABULARY, read_bundle

        found = read_bundle(bundle, verify=False)
        users = found.table(HABITS)["user_id"].unique().sort().to_list()
        items = found.table(HABITS)["item_id"].unique().sort().to_list()
        return cls(f"{name}, {found.table(VOCABULARY).height:,} items", bundle, users, items[:5_000], found.metadata.cutoff + timedelta(days=14))

    def bodies(self, *, session_share: float = 0.0, seed: int = 0) -> Iterator[bytes]:
        """Requests of random users, half of each list; a share of them with a running session of three events."""
        rng = random.Random(seed)
        while True:
            body: dict[str, Any] = {"user_id": rng.choice(self.users), "date": self.day.isoformat(), "list": rng.choice(("again", "discover"))}
            if rng.random() < session_share:
                body["events"] = [{"item_id": rng.choice(self.items), "event_type": "purchase"} for _ in range(3)]
            yield json.dumps(body).encode()


async def open_loop(port: int, rate: float, seconds: float, requests: Iterator[bytes], path: str = "/recommend") -> dict[str, float]:
    """Send at planned times (evenly spaced), whatever comes back; latency from the planned time."""
    clients: list[Client] = [Client(port) for _ in range(8)]
    latencies: list[float] = []
    failed = 0

    async def one(planned: float, body: bytes) -> None:
        nonlocal failed
        client = clients.pop() if clients else Client(port)
        try:
            status = await client.post(path, body)
            failed += status != 200
            clients.append(client)
        except (OSError, asyncio.IncompleteReadError):
            failed += 1
        latencies.append(time.perf_counter() - planned)

    start = time.perf_counter() + 0.05
    tasks = []
    for number in range(int(rate * seconds)):
        planned = start + number / rate
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        tasks.append(asyncio.create_task(one(planned, next(requests))))
    await asyncio.gather(*tasks)
    return summary(latencies, failed, time.perf_counter() - start)


async def closed_loop(port: int, num_clients: int, num_requests: int, requests: Iterator[bytes], path: str = "/recommend") -> dict[str, float]:
    """Clients that ask again when answered."""
    latencies: list[float] = []
    failed = left = 0
    left = num_requests

    async def client() -> None:
        nonlocal failed, left
        connection = Client(port)
        while left > 0:
            left -= 1
            started = time.perf_counter()
            try:
                failed += await connection.post(path, next(requests)) != 200
            except (OSError, asyncio.IncompleteReadError):
                failed += 1
                connection = Client(port)
            latencies.append(time.perf_counter() - started)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(num_clients)))
    return summary(latencies, failed, time.perf_counter() - start)


def summary(latencies: list[float], failed: int, seconds: float) -> dict[str, float]:
    """Quantiles in milliseconds, requests per second, failures."""
    ordered = sorted(latencies)
    quantiles = {f"p{q}_ms": round(ordered[min(int(len(ordered) * q / 100), len(ordered) - 1)] * 1000, 2) for q in (50, 95, 99)}
    return {"requests": len(ordered), "failed": failed, "per_second": round(len(ordered) / seconds, 1), **quantiles}


# ---- measurements --------------------------------------------------------------------------------------------------------

Row = dict[str, Any]


class Rows:
    """What was measured, in the grammar of all results."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, dataset: str, model: str, metric: str, value: float, *, n: int = 1, goal: str = "") -> None:
        """Note and print one figure; `goal` says what it should be."""
        self.rows.append({"dataset": dataset, "model": model, "metric": metric + (f" (goal: {goal})" if goal else ""), "value": value, "n": n})
        print(f"{dataset}; {model}; {metric}: {value}{f' (goal: {goal})' if goal else ''}", flush=True)

    def load(self, dataset: str, model: str, what: str, found: dict[str, float], goals: dict[str, str] | None = None) -> None:
        """The figures of one load: quantiles, throughput, failures."""
        names = {"p50_ms": "p50 ms", "p95_ms": "p95 ms", "p99_ms": "p99 ms", "per_second": "requests/s", "failed": "failed"}
        for key, name in names.items():
            self.add(dataset, model, f"{name}, {what}", found[key], n=int(found["requests"]), goal=(goals or {}).get(key, ""))


GOALS_100K = {"p95_ms": "at most 15", "p99_ms": "at most 30", "failed": "0"}
GOALS_1M = {"p99_ms": "at most 60", "failed": "0"}


def forms_of(bundle: Path, names: Sequence[str]) -> dict[str, Path]:
    """The bundle itself and its smaller forms, made once beside it."""
    from serving.compression import compress_bundle

    found = {"full precision": bundle}
    for name in names:
        target = bundle.with_name(f"{bundle.name}-{name}")
        if not (target / "bundle.json").is_file():
            compress_bundle(bundle, target, form=name)
        found[name] = target
    return found


def warm_up(port: int, model: Model) -> None:
    """What a service has behind it a few seconds after its start."""
    asyncio.run(closed_loop(port, 8, WARM_UP, model.bodies(seed=1)))
    time.sleep(SETTLE)


def without_encoder(bundle: Path) -> Path:
    """The bundle without its encoder, made once beside it: taste is the linear terms alone."""
    from safetensors.numpy import load_file, save_file

    from serving.bundle import FORECASTS, HABITS, HISTORIES, ITEM_CATALOGUE, ITEM_WEEKS, VOCABULARY, read_bundle, write_bundle

    target = bundle.with_name(f"{bundle.name}-plain")
    if (target / "bundle.json").is_file():
        return target
    found, networks = read_bundle(bundle, verify=False), bundle.with_name(f"{bundle.name}-plain-networks")
    shutil.copytree(bundle / "networks", networks, ignore=shutil.ignore_patterns("encoder.onnx", "vectors.safetensors"), dirs_exist_ok=True)
    tables = load_file(bundle / "networks" / "vectors.safetensors")
    save_file({name: table for name, table in tables.items() if not name.startswith("taste_items")}, networks / "vectors.safetensors")
    head = json.loads((networks / "head.json").read_text())
    for of_list in head["lists"].values():
        of_list["encoder_weight"] = 0.0
    (networks / "head.json").write_text(json.dumps(head))
    _leave_out_first_term(networks / "habit.onnx", len(head["habit_inputs"]) + len(head["season_inputs"]))
    names = {"vocabulary": VOCABULARY, "item_catalogue": ITEM_CATALOGUE, "histories": HISTORIES, "habits": HABITS, "item_weeks": ITEM_WEEKS}
    write_bundle(
        target,
        networks=networks,
        **{argument: found.table(name) for argument, name in names.items()},
        forecasts=found.table(FORECASTS) if found.has_table(FORECASTS) else None,
        metadata=found.metadata,
    )
    return target


def _leave_out_first_term(path: Path, at: int) -> None:
    """The habit network without the input at `at`, the encoder's term: a zero is put in its place."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    given, wide = model.graph.input[0], "inputs_with_a_zero"
    for node in model.graph.node:
        node.input[:] = [wide if name == given.name else name for name in node.input]
    constants = {"before": np.array([0, 0, 0, 1], np.int64), "start": np.array([0]), "end": np.array([at]), "last": np.array([2**31]), "axis": np.array([1])}
    model.graph.initializer.extend(numpy_helper.from_array(values.astype(np.int64), name) for name, values in constants.items())
    nodes = [
        helper.make_node("Slice", [given.name, "start", "end", "axis"], ["own_and_season"]),
        helper.make_node("Slice", [given.name, "end", "last", "axis"], ["terms"]),
        helper.make_node("Pad", ["own_and_season", "before"], ["with_a_zero"]),
        helper.make_node("Concat", ["with_a_zero", "terms"], [wide], axis=1),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    given.type.tensor_type.shape.dim[1].dim_value -= 1
    onnx.save(model, path)


def measure_form(rows: Rows, model: Model, form: str, bundle: Path, folder: Path, *, rate: float, goals: dict[str, str], quick: bool) -> None:
    """Latency at a rate, saturation with one and two workers, start and memory of one form of a model."""
    from serving.compression import size_bytes

    seconds, closed = (5, 500) if quick else (15, 1_500)
    settings = {"bundle": str(bundle), "cache": str(folder / "cache"), "log_folder": str(folder / "log")}
    what = f"service, {form}"
    rows.add(model.name, what, "bundle MiB", round(size_bytes(bundle) / 2**20, 1))
    port = free_port()
    with service(port, **settings):
        pass  # files of libraries and bundle are in memory from here on
    port = free_port()
    with service(port, **settings) as (process, ready):
        rows.add(model.name, what, "seconds from start to ready, warm cache", round(ready, 2), goal="at most 5" if goals is GOALS_100K else "")
        warm_up(port, model)
        rows.load(model.name, what, f"open loop {rate:g}/s", asyncio.run(open_loop(port, rate, seconds, model.bodies())), goals)
        sessions = asyncio.run(open_loop(port, rate, seconds, model.bodies(session_share=0.25, seed=2)))
        rows.load(model.name, what, f"open loop {rate:g}/s, a quarter with a running session", sessions)
        before = cpu_seconds(process)
        rows.load(model.name, what, "closed loop of 8, one worker", asyncio.run(closed_loop(port, 8, closed, model.bodies(seed=3))))
        rows.add(model.name, what, "CPU ms a request, closed loop of 8", round((cpu_seconds(process) - before) / closed * 1000, 2), n=closed)
        rows.add(model.name, what, "resident MiB, one worker", memory_mib(process))
    if form == "int8":
        port = free_port()
        with service(port, workers=2, **settings) as (process, _):
            warm_up(port, model)
            rows.load(model.name, what, "closed loop of 8, two workers", asyncio.run(closed_loop(port, 8, closed, model.bodies(seed=3))))
            rows.add(model.name, what, "resident MiB, two workers", memory_mib(process))


def measure_overlap(rows: Rows, model: Model, forms: dict[str, Path]) -> None:
    """Recall@10 of the smaller forms against full precision."""
    from serving.compression import list_overlap
    from serving.recommender import Recommender

    users = model.users[:: max(len(model.users) // 300, 1)][:300]
    full = Recommender.load(forms["full precision"])
    expected = {name: full.rank(users, request_date=model.day, list_name=name) for name in full.lists}
    for form in [form for form in forms if form != "full precision"]:
        small = Recommender.load(forms[form])
        for name, table in expected.items():
            overlap = list_overlap(table, small.rank(users, request_date=model.day, list_name=name))
            rows.add(model.name, f"service, {form}", f"recall@10 against full precision, {name}", round(overlap, 4), n=len(users), goal="at least 0.99")


def register(folder: Path, bundles: Sequence[Path]) -> str:
    """A registry with the bundles as versions 1, 2 ... of `benchmark`, the first of them champion; its address."""
    import mlflow

    from serving.registered_model import BUNDLE, CODE_PATHS, PIP_REQUIREMENTS, PYFUNC_FILE

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    uri = f"sqlite:///{folder / 'mlflow.sqlite'}"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("serving", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("serving")
    with mlflow.start_run():
        for bundle in bundles:
            mlflow.pyfunc.log_model(
                name="recommender",
                python_model=PYFUNC_FILE,
                artifacts={BUNDLE: str(bundle)},
                code_paths=CODE_PATHS,
                pip_requirements=PIP_REQUIREMENTS,
                registered_model_name="benchmark",
            )
    mlflow.MlflowClient().set_registered_model_alias("benchmark", "champion", "1")
    return uri


def measure_swaps(rows: Rows, model: Model, uri: str, folder: Path, *, num_requests: int) -> None:
    """Requests while the champion changes three times in the registry."""
    import mlflow

    client = mlflow.MlflowClient()
    port = free_port()
    settings = {"tracking_uri": uri, "model_name": "benchmark", "cache": str(folder / "cache"), "log_folder": str(folder / "log"), "poll_seconds": "1"}
    with service(port, **settings):
        served: list[str] = []

        async def move() -> None:
            for version in ("2", "1", "2"):
                await asyncio.sleep(1)
                await asyncio.to_thread(client.set_registered_model_alias, "benchmark", "champion", version)
                while not served or served[-1] != version:
                    await asyncio.sleep(0.3)
                    text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).read())
                    if json.loads(text)["model_version"] == version:
                        served.append(version)

        async def both() -> dict[str, float]:
            swaps = asyncio.create_task(move())
            found = await closed_loop(port, 4, num_requests, model.bodies(seed=4))
            assert swaps.done(), "the swaps took longer than the requests: ask for more requests"
            return found

        found = asyncio.run(both())
    rows.load(model.name, "service", f"during {len(served)} hot swaps, closed loop of 4", found, {"failed": "0"})


def measure_growth(rows: Rows, folder: Path, *, num_requests: int) -> None:
    """Resident memory while a small model answers very many requests, one in twenty with a session: after a tenth, then after each quarter."""
    model = Model.of("random weights", write_model(folder, 2_000, 2_000, 30))
    port = free_port()
    with service(port, bundle=str(model.bundle), cache=str(folder / "cache"), log_folder=str(folder / "growth-log")) as (process, _):
        asyncio.run(closed_loop(port, 16, num_requests // 10, model.bodies(session_share=0.05, seed=6)))
        time.sleep(WRITTEN_AFTER)
        memory = [memory_mib(process)]
        rows.add(model.name, "service", "resident MiB before the long run", memory[0])
        bodies, failed, seconds = model.bodies(session_share=0.05, seed=7), 0.0, 0.0
        for _ in range(4):
            found = asyncio.run(closed_loop(port, 16, num_requests // 4, bodies))
            failed, seconds = failed + found["failed"], seconds + found["requests"] / found["per_second"]
            time.sleep(WRITTEN_AFTER)
            memory.append(memory_mib(process))
        done = num_requests // 4 * 4
        rows.add(model.name, "service", "requests/s, closed loop of 16, long run", round(done / seconds, 1), n=done)
        rows.add(model.name, "service", "failed, long run", failed, n=done, goal="0")
        rows.add(model.name, "service", "growth of resident MiB over the long run", round(memory[-1] - memory[0], 1), n=done, goal="none")
        rows.add(model.name, "service", "growth of resident MiB over its second half", round(memory[-1] - memory[2], 1), n=done // 2, goal="none")


@contextmanager
def other_server(command: Sequence[str], environment: dict[str, str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another server in a process group of its own, once it answers."""
    settings = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", **environment}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_for(address)
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def mlflow_server(uri: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The registered model behind MLflow's own scoring server."""
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the server starts `uvicorn` by its name
    arguments = ["-m", "models:/benchmark/2", "--env-manager", "local", "--port", str(port), "--workers", "1"]
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", *arguments]
    with other_server(command, {"PATH": path, "MLFLOW_TRACKING_URI": uri}, f"http://127.0.0.1:{port}/ping") as process:
        yield process, port


@contextmanager
def litserve(bundle: Path, folder: Path, day: date, *, max_batch: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The same recommender behind LitServe, which is installed into a folder of its own."""
    target = folder / "litserve"
    if not (target / "litserve").is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), "litserve", "pyzmq"], check=True)
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.litserve_server", str(bundle), str(port), str(max_batch), day.isoformat()]
    with other_server(command, {"PYTHONPATH": str(target)}, f"http://127.0.0.1:{port}/health") as process:
        yield process, port


def measure_beside_others(rows: Rows, model: Model, uri: str, bundle: Path, folder: Path, *, quick: bool) -> None:
    """Saturation of the service, MLflow's scoring server and LitServe: all are up, and are asked in turns, so that a busy moment meets each of them."""
    turns, at_once = (2, 200) if quick else (6, 400)

    def wrapped(seed: int) -> Iterator[bytes]:
        for body in model.bodies(seed=seed):
            yield json.dumps({"inputs": [json.loads(body)]}).encode()

    port = free_port()
    settings = {"bundle": str(bundle), "cache": str(folder / "cache"), "log_folder": str(folder / "log")}
    with (
        service(port, **settings) as (ours, _),
        mlflow_server(uri) as (theirs, mlflow_port),
        litserve(bundle, folder, model.day, max_batch=1) as (single, single_port),
        litserve(bundle, folder, model.day, max_batch=16) as (batched, batched_port),
    ):
        servers = {
            "service": (ours, port, "/recommend", model.bodies),
            "MLflow scoring server": (theirs, mlflow_port, "/invocations", wrapped),
            "LitServe, one by one": (single, single_port, "/recommend", model.bodies),
            "LitServe, batches of at most 16": (batched, batched_port, "/recommend", model.bodies),
        }
        seconds, cpu, failed = (dict.fromkeys(servers, 0.0) for _ in range(3))
        for turn in range(-1, turns):  # the first turn warms up
            for name, (process, at, path, requests) in servers.items():
                before = cpu_seconds(process)
                found = asyncio.run(closed_loop(at, 8, at_once, requests(seed=turn + 10), path))
                if turn < 0:
                    time.sleep(SETTLE)
                else:
                    seconds[name] += found["requests"] / found["per_second"]
                    cpu[name] += cpu_seconds(process) - before
                    failed[name] += found["failed"]
    n = turns * at_once
    for name in servers:
        rows.add(model.name, f"{name}, int8", "requests/s, closed loop of 8, in turns", round(n / seconds[name], 1), n=n)
        rows.add(model.name, f"{name}, int8", "CPU ms a request, closed loop of 8, in turns", round(cpu[name] / n * 1000, 2), n=n)
        rows.add(model.name, f"{name}, int8", "failed, closed loop of 8, in turns", failed[name], n=n)
        if name != "service":
            goal = "at least 3" if name.startswith("MLflow") else "at least 1"
            rows.add(model.name, name, "throughput of the service over its", round(seconds[name] / seconds["service"], 2), n=n, goal=goal)
            rows.add(model.name, name, "its CPU a request over that of the service", round(cpu[name] / cpu["service"], 2), n=n)


def trained_model() -> Path:
    """Bundle of the trained 100,000 items; the pipeline runs where it was not trained before (five minutes)."""
    mark = WORK / "trained.txt"
    if not mark.is_file():
        subprocess.run([sys.executable, "-m", "flows.command_line", "run", str(PARAMETERS)], check=True, cwd=ROOT)
        from contracts.config import PipelineConfig
        from tasks.registry import bundle_of_version, connect

        config = PipelineConfig.from_yaml(PARAMETERS)
        client = connect(config.registry, config.storage_root)
        newest = max(int(found.version) for found in client.search_model_versions(f"name = '{config.registry.model_name}'"))
        mark.write_text(str(bundle_of_version(config.registry, config.storage_root, str(newest)).resolve()))
    return Path(mark.read_text())


def free_port() -> int:
    """A port nobody listens at."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs, without the million items and the 200,000 requests")
    parser.add_argument("--train", action="store_true", help="train the model of 100,000 items and stop")
    parser.add_argument("--part", choices=("forms", "swaps", "beside", "million", "growth"), help="one part only; nothing is written")
    parser.add_argument("--bundle", type=Path, help="trained bundle of 100,000 items; default: the one the pipeline trains")
    given = parser.parse_args()
    os.environ.update(DO_NOT_TRACK="1", MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    folder = WORK / "models"
    folder.mkdir(parents=True, exist_ok=True)
    if given.train:
        print(trained_model())
        return
    trained = Model.of("trained", given.bundle or trained_model())
    copy = folder / "trained"
    if not (copy / "bundle.json").is_file():
        shutil.copytree(trained.bundle, copy)
    rows = Rows()
    rows.add("machine", "-", "load average before", round(os.getloadavg()[0], 2))
    parts = (given.part,) if given.part else ("forms", "swaps", "beside", *(() if given.quick else ("million", "growth")))
    forms = forms_of(copy, ("int8",))
    if "forms" in parts:
        for form, bundle in {**forms, "int8 without an encoder": forms_of(without_encoder(copy), ("int8",))["int8"]}.items():
            measure_form(rows, trained, form, bundle, folder, rate=100, goals=GOALS_100K, quick=given.quick)
        measure_overlap(rows, trained, forms)
    if "swaps" in parts or "beside" in parts:
        uri = register(folder / "registry", list(forms.values()))
        if "swaps" in parts:
            measure_swaps(rows, trained, uri, folder / "registry", num_requests=4_000 if given.quick else 20_000)
        if "beside" in parts:
            measure_beside_others(rows, trained, uri, forms["int8"], folder, quick=given.quick)
    if "million" in parts:
        million = Model.of("random weights", write_model(folder, 1_000_000, 10_000, 60))
        for form, bundle in forms_of(million.bundle, ("int8", "pq")).items():
            measure_form(rows, million, form, bundle, folder, rate=30, goals=GOALS_1M, quick=given.quick)
    if "growth" in parts:
        measure_growth(rows, folder, num_requests=20_000 if given.quick else 200_000)
    rows.add("machine", "-", "load average after", round(os.getloadavg()[0], 2))
    if given.part:
        return
    write_results("serving_quick" if given.quick else "serving", command="python -m benchmarks.serving" + (" --quick" if given.quick else ""), rows=rows.rows)


if __name__ == "__main__":
    main()
