"""How long `validate_interactions` takes and how much memory it needs: python -m benchmarks.validation [--quick] [--rows N ...].

Made events over two years in monthly parts, once all good, once with one row in a thousand broken. Each run has its own process, so that peak
memory is its own; the import of Great Expectations is timed apart. The default sizes write
benchmarks/results/validation.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "validation.json"
SIZES = (1_000_000, 5_000_000, 20_000_000)
DAYS = 730
NUM_USERS, NUM_ITEMS = 200_000, 50_000
BROKEN_EVERY = 1_000


def make_events(folder: Path, rows: int, *, broken: bool) -> None:
    """Monthly parts of `interactions` and a catalogue. Broken rows have a negative price, no user, an unknown type or a time in 2099, in turn."""
    bad = f"i % {BROKEN_EVERY} = 0" if broken else "FALSE"
    turn = f"(i // {BROKEN_EVERY}) % 4"
    connection = duckdb.connect()
    connection.execute("SET preserve_insertion_order = true")
    for month in range(24):
        first, last = month * rows // 24, (month + 1) * rows // 24
        target = folder / "interactions" / f"month={2023 + month // 12}-{month % 12 + 1:02d}" / "part.parquet"
        target.parent.mkdir(parents=True)
        connection.execute(
            f"""
            COPY (
                SELECT md5(i::VARCHAR) AS event_id,
                    CASE WHEN {bad} AND {turn} = 0 THEN NULL ELSE 'user-' || hash(i) % {NUM_USERS} END AS user_id,
                    'item-' || (sqrt(hash(i + 7) % {NUM_ITEMS**2}))::BIGINT AS item_id,
                    (CASE WHEN {bad} AND {turn} = 1 THEN TIMESTAMP '2099-01-01'
                        ELSE TIMESTAMP '2023-01-01' + to_microseconds((i * {DAYS * 86_400_000_000 / rows})::BIGINT) END)::TIMESTAMPTZ AS event_time,
                    CASE WHEN {bad} AND {turn} = 2 THEN 'hover' WHEN i % 5 = 0 THEN 'purchase' ELSE 'view' END AS event_type,
                    1.0::DOUBLE AS quantity,
                    CASE WHEN {bad} AND {turn} = 3 THEN -1.0 ELSE (hash(i + 3) % 10000) / 100 END::DOUBLE AS price,
                    NULL::DOUBLE AS value, 'basket-' || i // 3 AS basket_id, NULL::VARCHAR AS platform, NULL::VARCHAR AS region
                FROM (SELECT unnest(range({first}, {last})) AS i)
            ) TO '{target}' (FORMAT parquet, COMPRESSION zstd)
            """
        )
    catalogue = f"SELECT 'item-' || i AS item_id, 'category ' || i % 12 AS category FROM range({NUM_ITEMS + 1}) t(i)"
    connection.execute(f"COPY ({catalogue}) TO '{folder / 'item_catalogue.parquet'}' (FORMAT parquet)")


def measure(folder: Path) -> dict[str, float]:
    """Validate the events of a folder in this process."""
    from contracts.artifacts import TableRef
    from contracts.sections.validation import ValidationConfig
    from expectations.engine import load_great_expectations
    from expectations.quarantine import table_ref
    from expectations.validation import validate_interactions

    interactions = table_ref("interactions", folder / "interactions")
    catalogue = TableRef(name="item_catalogue", path=str(folder / "item_catalogue.parquet"), rows=NUM_ITEMS + 1, columns=("item_id", "category"), digest="")
    started = time.perf_counter()
    load_great_expectations()
    imported = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    report = validate_interactions(
        interactions, catalogue, ValidationConfig(), folder=folder / "validation", now=datetime(2025, 6, 1, tzinfo=UTC), horizon_days=28
    )
    seconds, after = time.perf_counter() - imported, resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "import_seconds": imported - started,
        "rows_per_second": interactions.rows / seconds,
        "rows_per_cpu_second": interactions.rows / cpu_seconds,
        "peak_memory_mib": after.ru_maxrss / 1024,
        "num_expectations": report.num_expectations,
        "rows_quarantined": report.rows_quarantined,
    }


def run(rows: int, *, broken: bool) -> dict[str, float]:
    """Make events, then measure in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        make_events(Path(folder), rows, broken=broken)
        child = subprocess.run(
            [sys.executable, __file__, "--measure", folder], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True
        )
    return json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    """Measure every size, print a table, write the result file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    sizes = arguments.add_mutually_exclusive_group()
    sizes.add_argument("--rows", type=int, nargs="+", default=list(SIZES), help="sizes of the made tables")
    sizes.add_argument("--quick", dest="rows", action="store_const", const=[SIZES[0]], help="the smallest size: prints, and writes no file")
    arguments.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    rows = []
    for size in given.rows:
        for broken in (False, True):
            name = f"made events, {size:,} rows, {'1 in 1,000 broken' if broken else 'all good'}"
            measured = run(size, broken=broken)
            seconds, speed, memory = measured["seconds"], measured["rows_per_second"], measured["peak_memory_mib"]
            print(f"{name}: {seconds:.1f} s ({measured['cpu_seconds']:.1f} s of CPU), {speed:,.0f} rows/s, {memory:,.0f} MiB", flush=True)
            rows += [
                {"dataset": name, "model": "validate_interactions", "metric": metric, "value": round(value, 3), "n": size} for metric, value in measured.items()
            ]
    if given.rows != list(SIZES):
        return
    sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "git_sha": sha,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "command": "python benchmarks/validation.py",
        "rows": rows,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
