"""Speed and memory of the feature tables at 1, 10 and 50 million synthetic events, beside the same tables in pandas at 1 million.

    python -m benchmarks.features                      # all of it -> benchmarks/results/features.json
    python -m benchmarks.features --quick              # 1 million, prints only

Every measurement runs in a process of its own: peak memory is that process's, imports and generating the events are not counted. The tables are what one
cut-off needs: item weeks, habits with their network inputs, season rows, weekly demand of items and in all with lags and moving averages. They are written
to Parquet, as the pipeline does. Wall-clock seconds depend on what else the machine does, so CPU seconds stand beside them.
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
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "features.json"
DAYS = 730
FIRST = date(2022, 1, 3)
END = FIRST + timedelta(days=DAYS)
CHUNK = 1_000_000
HALF_LIVES = (14, 45, 90, 180, 365)


# ---- events --------------------------------------------------------------------------------------------------------------


def write_events(folder: Path, num_events: int) -> None:
    """Events in order of time, one Parquet part a million: users and items grow with the log, items follow a Zipf law and a yearly wave."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(0)
    num_users, num_items = num_events // 100, num_events // 500
    weight = 1 / np.arange(1, num_items + 1) ** 0.8
    cumulative = np.cumsum(weight) / weight.sum()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_events // CHUNK):
        span = DAYS * 86_400_000_000 * CHUNK // num_events
        times = np.sort(random.integers(number * span, (number + 1) * span, CHUNK))
        day = times // 86_400_000_000
        item = (np.searchsorted(cumulative, random.random(CHUNK)) + (day // 28 % 13) * 7) % num_items
        start = int(datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC).timestamp() * 1_000_000)
        frame = pl.DataFrame(
            {"user": random.integers(0, num_users, CHUNK), "item": item, "event_time": times + start, "quantity": random.poisson(0.3, CHUNK) + 1.0}
        )
        frame.select(
            pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(8)).alias("user_id"),
            pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(7)).alias("item_id"),
            pl.col("event_time").cast(pl.Datetime("us", "UTC")),
            "quantity",
        ).write_parquet(folder / f"{number:04d}.parquet")


# ---- the tables in polars ------------------------------------------------------------------------------------------------


def write(table: "pl.LazyFrame", file: Path) -> int:
    """Write a table as Parquet, compressed as pandas does by default; returns its rows."""
    import polars as pl

    table.sink_parquet(file, compression="snappy", mkdir=True)
    return int(pl.scan_parquet(file).select(pl.len()).collect().item())


def written(parts: "list[pl.LazyFrame]", count: "Callable[[pl.LazyFrame], pl.LazyFrame]", folder: Path) -> "pl.LazyFrame":
    """Counts of every part, written one after the other, as one table to add up."""
    import polars as pl

    for number, part in enumerate(parts):
        write(count(part), folder / f"{number:04d}.parquet")
    return pl.scan_parquet(folder / "*.parquet")


def perennial(events: Path, out: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """(table, function that writes it and returns its rows). A log of more than one part goes the way of `features.user_parts`."""
    import polars as pl

    from features.demand import complete_demand, demand, demand_counts, demand_features
    from features.habits import habit_inputs, habits, repeat_counts, repeats_of
    from features.item_weeks import item_weeks
    from features.season import season
    from features.user_parts import merge_item_weeks, num_parts_for, write_user_parts

    log = pl.scan_parquet(events / "*.parquet")
    num_events = log.select(pl.len()).collect().item()
    num_parts = num_parts_for(num_events)
    request = END + timedelta(days=28)
    of_demand = {"frequency": "week", "levels": ("item", "total"), "end": END}
    parts: list[pl.LazyFrame] = []

    def split() -> int:
        parts.extend(write_user_parts(log, out / "parts", num_parts=num_parts) if num_parts > 1 else [log])
        return num_events

    def weeks() -> int:
        table = item_weeks(log, END)
        if num_parts > 1:
            written(parts, lambda part: item_weeks(part, END), out / "weeks")
            table = merge_item_weeks([pl.scan_parquet(file) for file in sorted((out / "weeks").glob("*.parquet"))])
        return write(table, out / "item_weeks.parquet")

    def habit() -> int:
        items = repeats_of(written(parts, lambda part: repeat_counts(part, END), out / "repeats")).collect().lazy() if num_parts > 1 else None
        tables = (habits(part, END, HALF_LIVES, items=items, log_first_day=FIRST) for part in parts)
        inputs = (habit_inputs(table, request, cutoff=END, half_lives_days=HALF_LIVES) for table in tables)
        return sum(write(table, out / "habits" / f"{number:04d}.parquet") for number, table in enumerate(inputs))

    def seasons() -> int:
        return write(season(pl.scan_parquet(out / "item_weeks.parquet"), cutoff=END, request_date=request), out / "season.parquet")

    def demands() -> int:
        table = demand(log, None, **of_demand)
        if num_parts > 1:
            table = complete_demand(written(parts, lambda part: demand_counts(part, None, **of_demand), out / "counts"), frequency="week", end=END)
        return write(demand_features(table), out / "demand.parquet")

    yield from {"parts": split, "item_weeks": weeks, "habits": habit, "season": seasons, "demand": demands}.items()


# ---- the same in pandas --------------------------------------------------------------------------------------------------


def in_pandas(events: Path, out: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """The same tables as a careful pandas user writes them: vectorised, no apply over rows."""
    import numpy as np
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    log = pd.DataFrame()
    week_rows = pd.DataFrame()
    cutoff = pd.Timestamp(END, tz="UTC")

    def read() -> int:
        nonlocal log
        log = pd.concat([pd.read_parquet(part) for part in sorted(events.glob("*.parquet"))], ignore_index=True)
        log["age"] = (cutoff - log["event_time"]).dt.days
        log["weeks_ago"] = ((cutoff - log["event_time"] - pd.Timedelta(microseconds=1)) // pd.Timedelta(days=7)).astype("int32")
        log["day"] = log["event_time"].dt.floor("D")
        return len(log)

    def weeks() -> int:
        nonlocal week_rows
        visits = log.groupby(["item_id", "weeks_ago", "user_id"], as_index=False)["quantity"].sum()
        pairs = visits.groupby(["item_id", "user_id"])["weeks_ago"].agg(["max", "min"]).reset_index()
        counts = visits.groupby(["item_id", "weeks_ago"]).agg(buyers=("user_id", "size"), units=("quantity", "sum"))
        counts["first_buyers"] = pairs.groupby(["item_id", "max"]).size().rename_axis(["item_id", "weeks_ago"])
        counts["last_buyers"] = pairs.groupby(["item_id", "min"]).size().rename_axis(["item_id", "weeks_ago"])
        week_rows = counts.fillna(0).reset_index()
        week_rows.to_parquet(out / "item_weeks.parquet")
        return len(week_rows)

    def habit() -> int:
        days = log.groupby(["user_id", "item_id", "day"], as_index=False)["quantity"].sum()
        age = (pd.Timestamp(END, tz="UTC") - days["day"]).dt.days - 1
        for half_life in HALF_LIVES:
            days[f"decayed_{half_life}d"] = 0.5 ** (age / half_life)
        # last year's weeks of this one request date; perennial keeps the days, so that any date can be asked
        days["last_year"] = age.between(364 - 28 - 28 - 14, 364 - 28 + 14 - 1).astype("float64")
        aggregations = {f"decayed_{half_life}d": "sum" for half_life in HALF_LIVES} | {"quantity": "sum", "last_year": "sum"}
        grouped = days.groupby(["user_id", "item_id"])
        pairs = grouped.agg(aggregations)
        pairs["baskets"], pairs["first"], pairs["last"] = grouped.size(), grouped["day"].min(), grouped["day"].max()
        pairs = pairs.reset_index()
        pairs["interval"] = (pairs["last"] - pairs["first"]).dt.days / (pairs["baskets"] - 1).where(pairs["baskets"] > 1)
        items = pairs.groupby("item_id").agg(buyers=("baskets", "size"), repeaters=("interval", "count"), intervals=("interval", "sum"))
        share, interval = items["repeaters"].sum() / items["buyers"].sum(), items["intervals"].sum() / max(items["repeaters"].sum(), 1)
        items["repeat_share"] = (items["repeaters"] + 10 * share) / (items["buyers"] + 10)
        items["item_interval"] = (items["intervals"] + 5 * interval) / (items["repeaters"] + 5)
        trips = days[["user_id", "day"]].drop_duplicates()
        trips["decayed"] = 0.5 ** (((pd.Timestamp(END, tz="UTC") - trips["day"]).dt.days - 1) / 45)
        users = trips.groupby("user_id").agg(trips=("decayed", "size"), trips_45=("decayed", "sum"), user_last=("day", "max"))
        pairs = pairs.merge(items[["repeat_share", "item_interval"]], on="item_id").merge(users, on="user_id")
        today = pd.Timestamp(END + timedelta(days=28), tz="UTC")
        since = (today - pairs["last"]).dt.days
        own = (pairs["interval"].fillna(0) * (pairs["baskets"] - 1) + pairs["item_interval"]) / pairs["baskets"]
        overdue = np.log((since + 1) / (own + 1))
        inputs = {f"log_decayed_{half_life}d": np.log(pairs[f"decayed_{half_life}d"] + 0.01) for half_life in HALF_LIVES}
        inputs |= {"log_baskets": np.log(pairs["baskets"]), "log_units": np.log(pairs["quantity"] / pairs["baskets"]), "log_since": np.log1p(since) - 4}
        inputs |= {"log_interval": np.log1p(own) - 3, "overdue": overdue, "due": np.tanh(overdue) ** 2, "log_trips": np.log1p(pairs["trips"]) - 3}
        inputs |= {"log_trips_45": np.log1p(pairs["trips_45"]) - 2, "share": np.log((pairs["decayed_90d"] + 0.1) / (pairs["trips_45"] + 1))}
        inputs |= {"user_since": np.log1p((today - pairs["user_last"]).dt.days) - 3, "repeat": np.log(pairs["repeat_share"] / (1 - pairs["repeat_share"]))}
        inputs |= {"last_year": np.log1p(pairs["last_year"])}
        pd.concat([pairs, pd.DataFrame(inputs).astype("float32").add_prefix("habit_")], axis=1).to_parquet(out / "habits.parquet")
        return len(pairs)

    def seasons() -> int:
        rows = week_rows
        users = log["user_id"].nunique()
        ago, items = rows["weeks_ago"], rows["item_id"].unique()

        def trailing(column: str, weeks: int, skip: int = 0) -> pd.Series:
            return rows[ago.between(skip, skip + weeks - 1)].groupby("item_id")[column].sum().reindex(items, fill_value=0.0)

        def lift(part: pd.Series, year: pd.Series, k: float = 10.0) -> pd.Series:
            share = (year + 0.5) / (year.sum() + 0.5 * len(items))
            return np.log((part + k * len(items) * share) / (part.sum() + k * len(items))) - np.log(share)

        distinct = {weeks: trailing("last_buyers", weeks) for weeks in (1, 4, 13, 52)}
        buyers_52, last_year = trailing("buyers", 52), trailing("buyers", 8, 42)
        columns = {f"lift_{weeks}": lift(distinct[weeks], distinct[52]) for weeks in (1, 4, 13)}
        columns |= {f"level_{weeks}": np.log((distinct[weeks] + 0.3) / users) + 5 for weeks in distinct}
        columns |= {f"new_{weeks}": np.log((trailing("first_buyers", weeks) + 0.3) / users) + 5 for weeks in (4, 13)}
        columns |= {"lift_4_8": lift(trailing("buyers", 4), trailing("buyers", 8), 5.0), "last_year": lift(last_year, buyers_52)}
        columns |= {"change": lift(last_year, last_year + trailing("buyers", 4, 52), 5.0), "level": np.log((last_year + 0.3) / users) + 5}
        columns |= {"age": np.log1p(7 * rows.groupby("item_id")["weeks_ago"].max()), "since": np.log1p(7 * rows.groupby("item_id")["weeks_ago"].min())}
        table = pd.DataFrame(columns).astype("float32")
        table.to_parquet(out / "season.parquet")
        return len(table)

    def demands() -> int:
        named = pd.concat([log.assign(id=log["item_id"]), log.assign(id="total")])
        sums = named.groupby(["id", "weeks_ago"]).agg(units=("quantity", "sum"), buyers=("user_id", "nunique"))
        first = sums.reset_index().groupby("id")["weeks_ago"].max()
        grid = pd.MultiIndex.from_arrays([first.index.repeat(first + 1), np.concatenate([np.arange(n, -1, -1) for n in first])], names=["id", "weeks_ago"])
        table = sums.reindex(grid, fill_value=0).reset_index()
        by = table.groupby("id", sort=False)["units"]
        for weeks in (1, 4, 52):
            table[f"lag_{weeks * 7}"] = by.shift(weeks)
        shifted = by.shift(1)
        for weeks in (1, 4, 13):
            table[f"ma_{weeks * 7}"] = shifted.groupby(table["id"], sort=False).rolling(weeks, min_periods=1).mean().to_numpy()
        for name in ("min", "max", "std"):
            table[name] = getattr(shifted.groupby(table["id"], sort=False).rolling(4, min_periods=1), name)().to_numpy()
        table["active"] = (shifted > 0).astype("float64").groupby(table["id"], sort=False).rolling(13, min_periods=1).mean().to_numpy()
        moved = table.groupby("id", sort=False)["ma_28"]
        table["growth"] = np.log((table["ma_28"] + 0.1) / (moved.shift(4) + 0.1))
        table["last_year"], table["yoy"] = moved.shift(48), np.log((table["ma_28"] + 0.1) / (moved.shift(52) + 0.1))
        time_ = table.groupby("id", sort=False).cumcount().astype("float64")
        terms = pd.DataFrame({"n": 1.0, "t": time_, "y": table["units"], "ty": time_ * table["units"], "tt": time_**2})
        moved_terms = terms.groupby(table["id"], sort=False).shift(1)
        sums_ = moved_terms.groupby(table["id"], sort=False).rolling(13, min_periods=1).sum().reset_index(drop=True)
        table["trend"] = (1 / 7) * (sums_["n"] * sums_["ty"] - sums_["t"] * sums_["y"]) / (sums_["n"] * sums_["tt"] - sums_["t"] ** 2)
        year = shifted.groupby(table["id"], sort=False).rolling(52, min_periods=1).sum().reset_index(drop=True)
        window = (table["ma_28"] * 4).groupby(table["id"], sort=False).shift(48)
        total = pd.DataFrame({"weeks_ago": table["weeks_ago"], "rate": window / year})[table["id"] == "total"]
        rate = table[["weeks_ago"]].merge(total, on="weeks_ago", how="left")["rate"]
        table["season_index"] = ((window + 10) / (rate * year + 10) * rate * 13).fillna(1.0)
        table.to_parquet(out / "demand.parquet")
        return len(table)

    yield from {"parts": read, "item_weeks": weeks, "habits": habit, "season": seasons, "demand": demands}.items()


# ---- measuring -----------------------------------------------------------------------------------------------------------


def measure(model: str, events: Path) -> None:
    """Child process: make every table once, print one JSON line each."""
    make = {"perennial": perennial, "pandas": in_pandas}[model]
    with tempfile.TemporaryDirectory(dir=events.parent) as out:
        for table, write in make(events, Path(out) / "tables"):
            wall, cpu = time.perf_counter(), time.process_time()
            rows = write()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            sys.stdout.write(
                json.dumps({"table": table, "rows": rows, "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak}) + "\n"
            )
            sys.stdout.flush()


def run_child(model: str, events: Path, threads: int) -> list[dict]:
    """Measure in a fresh process; its standard output is one JSON object a line."""
    environment = {**os.environ, "POLARS_MAX_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.features", "--child", model, "--events", str(events)]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows_of(model: str, millions: int, tables: list[dict], threads: int) -> list[dict]:
    """Result rows of one child: per table and for all of them."""
    num_events, dataset = millions * 1_000_000, f"synthetic_{millions}m"
    common = {"dataset": dataset, "model": model, "n": num_events, "threads": threads}
    rows = []
    for table in tables:
        detail = common | {"table": table["table"], "table_rows": table["rows"]}
        rows += [detail | {"metric": "seconds", "value": round(table["seconds"], 3)}, detail | {"metric": "cpu_seconds", "value": round(table["cpu"], 3)}]
    seconds, cpu = (sum(table[key] for table in tables) for key in ("seconds", "cpu"))
    rows += [
        common | {"metric": "seconds", "value": round(seconds, 3)},
        common | {"metric": "cpu_seconds", "value": round(cpu, 3)},
        common | {"metric": "events_per_second", "value": round(num_events / seconds, 1)},
        common | {"metric": "events_per_cpu_second", "value": round(num_events / cpu, 1)},
        common | {"metric": "peak_memory_gib", "value": round(max(table["peak"] for table in tables) / 2**30, 3)},
    ]
    return rows


def main() -> None:
    """Parent: generate, measure in children, print and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--millions", type=int, nargs="+", default=[1, 10, 50], help="sizes of the log, millions of events")
    sizes.add_argument("--quick", dest="millions", action="store_const", const=[1], help="the same as --millions 1: prints, and writes no file")
    parser.add_argument("--threads", type=int, default=1, help="threads of a measured process")
    parser.add_argument("--folder", type=Path, help="where the events are generated; a temporary folder otherwise")
    parser.add_argument("--out", type=Path, help=f"result file; by default {RESULTS.relative_to(ROOT)} for the full run, none otherwise")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--events", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        measure(chosen.child, chosen.events)
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for millions in chosen.millions:
            events = Path(folder) / f"{millions}m"
            write_events(events, millions * 1_000_000)
            for model in ("perennial", "pandas") if millions == 1 else ("perennial",):
                found = rows_of(model, millions, run_child(model, events, chosen.threads), chosen.threads)
                rows += found
                for row in found:
                    sys.stdout.write(f"{row['dataset']:>14}  {row['model']:<10} {row.get('table', 'all'):<11} {row['metric']:<22} {row['value']:>14,.3f}\n")
                sys.stdout.flush()
    out = chosen.out or (RESULTS if chosen.millions == [1, 10, 50] else None)
    if out:
        sha = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        record = {
            "date": datetime.now(UTC).date().isoformat(),
            "git_sha": sha,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
            "command": f"python -m benchmarks.features --threads {chosen.threads}",
            "rows": rows,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
