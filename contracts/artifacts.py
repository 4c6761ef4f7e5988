"""Small typed references to stored things; what one step hands to the next.

TableRef     Parquet part files of one table: folder or file, rows, columns, content digest
JobResult    what a training process wrote down: stage, bundle or snapshots, metrics, seconds
BundleRef    a servable recommender: folder, cut-off, content digest
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Reference(BaseModel):
    """Base: frozen, unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRef(Reference):
    """A stored table. `path` is a Parquet file or a folder of Parquet parts."""

    name: str
    path: str
    rows: int = Field(ge=0)
    columns: tuple[str, ...]
    digest: str = Field(description="sha256 over the part files' relative names and contents, 16 hex digits")

    def parts(self) -> list[Path]:
        """Part files in stable order."""
        path = Path(self.path)
        return [path] if path.is_file() else sorted(path.rglob("*.parquet"))


class BundleRef(Reference):
    """A servable recommender: a folder of data (ONNX, Parquet, JSON), never code."""

    path: str
    cutoff: str
    digest: str


class JobResult(Reference):
    """What a training process wrote to `result.json`."""

    stage: str
    output: str
    metrics: dict[str, float]
    seconds: float
    world_size: int = 1
    job_digest: str = Field(default="", description="digest of the job; a folder with the same one holds the finished work")


def content_digest(paths: Iterable[Path], root: Path | None = None) -> str:
    """sha256 over relative names and bytes of files, 16 hex digits; independent of order and of modification times."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path.relative_to(root) if root else path.name).encode())
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def text_digest(*parts: str) -> str:
    """sha256 over strings, 16 hex digits; parts are kept apart."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)}:{part}".encode())
    return total.hexdigest()[:16]


class Finding(Reference):
    """One broken expectation of a table, critical or not."""

    table: str
    rule: str
    severity: str = Field(description="critical or warning")
    num_failed: int
    message: str
    example_row: dict[str, str] | None = None


class IngestReport(Reference):
    """What an ingest did. `rows_in` = `rows_accepted` + `rows_quarantined` + `rows_deleted` + `rows_known` (seen in an earlier ingest)."""

    interactions: TableRef
    item_catalogue: TableRef | None = None
    quarantined: TableRef | None = None
    rows_in: int
    rows_accepted: int
    rows_quarantined: int
    rows_deleted: int = 0
    rows_known: int = 0
    rows_erased: int = Field(default=0, description="rows of earlier ingests removed because their user asked for it; not part of rows_in")
    quarantined_by_rule: dict[str, int] = {}
    changed_months: tuple[str, ...] = ()
    watermark: str | None = Field(default=None, description="latest event_time stored, ISO, UTC")


class ValidationReport(Reference):
    """What a validation found. `rows_in` = `rows_accepted` + `rows_quarantined`."""

    accepted: TableRef
    quarantined: TableRef | None = None
    item_catalogue: TableRef | None = Field(default=None, description="the catalogue without its bad entries, where events were checked beside one")
    rows_in: int
    rows_accepted: int
    rows_quarantined: int
    quarantined_by_rule: dict[str, int] = {}
    findings: tuple[Finding, ...] = ()
    num_expectations: int = 0
    data_docs: str | None = Field(default=None, description="path of the Data Docs index page")


class FeatureTables(Reference):
    """What is known at every cut-off. Keys of the dictionaries are ISO dates, `<cutoff>/<lead>` for samples."""

    first_day: str
    end: str = Field(description="exclusive end of the data, ISO date")
    cutoffs: tuple[str, ...] = Field(description="all cut-offs, oldest first; the last is `end`")
    origins: tuple[str, ...] = Field(description="cut-offs that are evaluated")
    vocabulary: TableRef
    item_catalogue: TableRef | None
    training_events: TableRef | None
    calendar: TableRef
    demand: TableRef
    demand_features: TableRef | None = Field(default=None, description="demand with lags, averages, growth, last year and season index; items too")
    item_weeks: dict[str, TableRef] = {}
    habits: dict[str, TableRef] = {}
    histories: dict[str, TableRef] = {}
    targets: dict[str, TableRef] = {}
    habit_samples: dict[str, TableRef] = Field(default={}, description="habit inputs of every sample: user_id, item_id, inputs")
    content: TableRef | None = Field(default=None, description="item_index and its text vector; only items that have words")


class ForecastTables(Reference):
    """Forecasts of every cut-off, the back-test they were chosen by, and which model or fallback each series got."""

    forecasts: TableRef
    back_test: TableRef
    choices: TableRef | None = None


class SeasonTables(Reference):
    """Season rows of every sample: `<cutoff>/<lead>` -> table."""

    season: dict[str, TableRef]


class Snapshots(Reference):
    """Encoder weights as they were at each cut-off; empty where pre-training is off."""

    folder: str | None
    cutoffs: tuple[str, ...]
    digest: str
    metrics: dict[str, float] = {}


class Bundles(Reference):
    """One servable recommender per evaluated origin, and the one fitted on all data."""

    evaluated: dict[str, BundleRef]
    final: BundleRef
    metrics: dict[str, float] = {}
    fit_folder: str = Field(default="", description="where the fit left its looks at held-out users")


class ChampionRef(Reference):
    """The version that serves, and the bundle it was measured by (the same, unless it was refitted on all data)."""

    version: str
    bundle: BundleRef
    measured: BundleRef
    weights: str | None = Field(default=None, description="weights of the measured one that a training can go on from, where the registry has them")


class EvaluationRef(Reference):
    """A stored evaluation: JSON of all figures, rankings, and what a gate needs."""

    path: str
    against_champion: str | None = Field(default=None, description="figures on the windows that lie after the champion's cut-off too")
    digest: str = Field(description="what an approval is bound to")
    rankings: TableRef
    champion_version: str | None = None


class RegisteredVersion(Reference):
    """A recommender in the registry."""

    name: str
    version: str
    run_id: str
    evaluation_digest: str
    golden_requests: str = Field(description="path of the requests with their answers that any loaded copy must repeat")
    evaluated_version: str | None = Field(default=None, description="the version that was measured, where this one was refitted on all data")


class GateResult(Reference):
    """One gate: open or shut, the reasons in words, and the figures they speak of."""

    name: str
    passed: bool
    reasons: tuple[str, ...] = Field(description="what failed first; then what passed")
    failures: tuple[str, ...] = Field(default=(), description="the reasons for which it stayed shut")
    figures: Mapping[str, float] = {}


class PromotionOutcome(Reference):
    """What the gates and the promotion decided. `gates` is empty where a promotion read the gates' words from the registry."""

    challenger: bool
    promoted: bool
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...] = ()
    champion_version: str | None = None


class TrainingOutcome(Reference):
    """What a whole run left behind."""

    version: RegisteredVersion | None
    promotion: PromotionOutcome | None
    evaluation: EvaluationRef | None
    published: TableRef | None
    report: str | None
    forecasts: ForecastTables | None
