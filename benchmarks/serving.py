"""Latency, throughput and memory of the HTTP service, on loopback with the load generator on the same machine.

    python -m benchmarks.serving                        # all of it -> benchmarks/results/serving.json (20 minutes)
    python -m benchmarks.serving --quick                # 100,000 items, short runs

The model has the real shape (encoder of 64 numbers and 2 blocks exported by lightning_modules, a linear term over 4,096 popular items and 4,096
landmark users, season and habit networks) with random weights: time does not depend on what the weights are. Tables are made by `features` from synthetic
events. Open loop: requests are sent at their planned times whether or not earlier ones came back, and latency counts from the planned time,
so a stall is not hidden by waiting clients. Closed loop: as many clients as said, each asks again when answered.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "serving.json"
CUTOFF = date(2025, 7, 1)
WIDTH, BLOCKS, HISTORY, LANDMARKS, POOL = 64, 2, 64, 4_096, 4_096
WARM_UP = 200


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
    """CPU time of a process so far: what a request costs whatever else the machine does."""
    import psutil

    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


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


def bodies(num_users: int, *, session_share: float = 0.0, seed: int = 0) -> Iterator[bytes]:
    """Requests of random users, half of each list; a share of them with a running session of three events."""
    rng = random.Random(seed)
    while True:
        body: dict[str, Any] = {
            "user_id": f"u{rng.randrange(num_users):06d}",
            "date": (CUTOFF + timedelta(days=14)).isoformat(),
            "list": rng.choice(("again", "discover")),
        }
        if rng.random() < session_share:
            body["events"] = [{"item_id": f"{rng.randrange(5_000):08d}", "event_type": "purchase"} for _ in range(3)]
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


def measure_size(folder: Path, num_items: int, rate: float, *, quick: bool, num_users: int = 10_000) -> dict[str, Any]:
    """Latency at a rate, saturation with one and two workers, cold start and memory, for full precision and the compressed form."""
    from serving.compression import compress_bundle, size_bytes

    plain = write_model(folder, num_items, num_users, 60)
    small = folder / f"model-{num_items}-compressed"
    if not (small / "bundle.json").is_file():
        compress_bundle(plain, small)
    seconds, closed = (8, 800) if quick else (30, 4_000)
    found: dict[str, Any] = {"items": num_items, "users": num_users, "rate_per_second": rate}
    for name, bundle in (("full precision", plain), ("compressed", small)):
        port = free_port()
        settings = {"bundle": str(bundle), "cache": str(folder / "cache"), "log_folder": str(folder / "log")}
        with service(port, **settings) as (process, ready):
            row: dict[str, Any] = {"bundle_mib": round(size_bytes(bundle) / 2**20, 1), "ready_seconds": round(ready, 2)}
            asyncio.run(closed_loop(port, 2, WARM_UP, bodies(num_users, seed=1)))
            row["open_loop"] = asyncio.run(open_loop(port, rate, seconds, bodies(num_users)))
            row["open_loop_sessions"] = asyncio.run(open_loop(port, rate, seconds, bodies(num_users, session_share=0.25, seed=2)))
            before = cpu_seconds(process)
            row["closed_loop_8"] = asyncio.run(closed_loop(port, 8, closed, bodies(num_users, seed=3)))
            row["cpu_ms_per_request"] = round((cpu_seconds(process) - before) / closed * 1000, 2)
            row["memory_mib"] = memory_mib(process)
        port = free_port()
        with service(port, workers=2, **settings) as (process, _):
            asyncio.run(closed_loop(port, 8, WARM_UP, bodies(num_users, seed=1)))
            row["closed_loop_8_two_workers"] = asyncio.run(closed_loop(port, 8, closed, bodies(num_users, seed=3)))
            row["memory_mib_two_workers"] = memory_mib(process)
        found[name] = row
        print(num_items, name, json.dumps(row), flush=True)
    return found


def measure_overlap(folder: Path, num_items: int) -> dict[str, float]:
    """Recall@10 of the compressed form against full precision, over users of the benchmark's model."""
    from serving.compression import list_overlap
    from serving.recommender import Recommender

    plain, small = (Recommender.load(folder / name) for name in (f"model-{num_items}", f"model-{num_items}-compressed"))
    users = plain.users[:300]
    return {name: round(list_overlap(*(model.rank(users, request_date=CUTOFF, list_name=name) for model in (plain, small))), 4) for name in plain.lists}


def measure_swaps(folder: Path, num_items: int, *, num_requests: int) -> dict[str, Any]:
    """Requests while the champion changes three times in the registry; memory before and after."""
    import mlflow

    from serving.registered_model import BUNDLE, CODE_PATHS, PIP_REQUIREMENTS, PYFUNC_FILE

    uri = f"sqlite:///{folder / 'mlflow.sqlite'}"
    (folder / "mlflow.sqlite").unlink(missing_ok=True)
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("serving", artifact_location=(folder / "artifacts" / str(os.getpid())).as_uri())
    mlflow.set_experiment("serving")
    with mlflow.start_run():
        for name in (f"model-{num_items}", f"model-{num_items}-compressed"):
            mlflow.pyfunc.log_model(
                name="recommender",
                python_model=PYFUNC_FILE,
                artifacts={BUNDLE: str(folder / name)},
                code_paths=CODE_PATHS,
                pip_requirements=PIP_REQUIREMENTS,
                registered_model_name="benchmark",
            )
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("benchmark", "champion", "1")
    port = free_port()
    settings = {"tracking_uri": uri, "model_name": "benchmark", "cache": str(folder / "swap-cache"), "log_folder": str(folder / "log"), "poll_seconds": "1"}
    with service(port, **settings) as (process, _):
        asyncio.run(closed_loop(port, 4, WARM_UP, bodies(10_000, seed=1)))
        before = memory_mib(process)
        versions = []

        async def move() -> None:
            for version in ("2", "1", "2"):
                await asyncio.sleep(2)
                await asyncio.to_thread(client.set_registered_model_alias, "benchmark", "champion", version)
                while True:
                    await asyncio.sleep(0.3)
                    text = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).read())
                    if json.loads(text)["model_version"] == version:
                        versions.append(version)
                        break

        async def both() -> dict[str, float]:
            swaps = asyncio.create_task(move())
            found = await closed_loop(port, 4, num_requests, bodies(10_000, seed=4))
            await swaps
            return found

        found = asyncio.run(both())
        growth = asyncio.run(closed_loop(port, 4, num_requests, bodies(10_000, seed=5)))
        return {"during_swaps": found, "served": versions, "memory_mib": [before, memory_mib(process)], "after": growth}


def measure_mlflow_server(folder: Path, num_items: int, *, num_requests: int) -> dict[str, Any]:
    """The same registered model behind MLflow's own scoring server."""
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the server starts `uvicorn` by its name
    store = f"sqlite:///{folder / 'mlflow.sqlite'}"
    environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        "models",
        "serve",
        "-m",
        "models:/benchmark/2",
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--workers",
        "1",
    ]

    def requests() -> Iterator[bytes]:
        for body in bodies(10_000, seed=3):
            yield json.dumps({"inputs": [json.loads(body)]}).encode()

    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/ping")
            asyncio.run(closed_loop(port, 2, WARM_UP // 2, requests(), "/invocations"))
            return {"closed_loop_8": asyncio.run(closed_loop(port, 8, num_requests, requests(), "/invocations")), "memory_mib": memory_mib(process)}
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def free_port() -> int:
    """A port nobody listens at."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 items only, short runs")
    parser.add_argument("--work", type=Path, help="folder of the synthetic models, kept for a second run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.work or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {
            "command": "python -m benchmarks.serving" + (" --quick" if given.quick else ""),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": {
                "cpu": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load_before": os.getloadavg()[0],
                "python": platform.python_version(),
            },
            "sizes": [measure_size(folder, 100_000, 100, quick=given.quick)],
            "compressed_recall_at_10": measure_overlap(folder, 100_000),
        }
        if not given.quick:
            results["sizes"].append(measure_size(folder, 1_000_000, 30, quick=False))
        results["hot_swaps"] = measure_swaps(folder, 100_000, num_requests=2_000 if given.quick else 20_000)
        results["mlflow_scoring_server"] = measure_mlflow_server(folder, 100_000, num_requests=300 if given.quick else 1_000)
        results["machine"]["load_after"] = os.getloadavg()[0]
        given.output.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
