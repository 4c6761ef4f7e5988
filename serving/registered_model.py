"""What is logged to the registry with a bundle: the loader's file and code, its requirements, an example, the shape of a request.

    mlflow.pyfunc.log_model(name="recommender", python_model=PYFUNC_FILE, artifacts={BUNDLE: folder}, code_paths=CODE_PATHS,
                            input_example=INPUT_EXAMPLE, pip_requirements=PIP_REQUIREMENTS)

Imports nothing of MLflow, so that it costs nothing to look at.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydantic import BaseModel

ROOT: Final = Path(__file__).resolve().parents[1]
PYFUNC_FILE: Final = str(Path(__file__).with_name("pyfunc_model.py").resolve())
CODE_PATHS: Final = [str(ROOT / folder) for folder in ("contracts", "features", "serving")]
BUNDLE: Final = "bundle"
REQUIRED: Final = (
    "mlflow",
    "polars",
    "numpy",
    "scipy",
    "onnxruntime",
    "safetensors",
    "pydantic",
    "pyyaml",
    "holidays",
    "hijridate",
    "lunardate",
    "python-dateutil",
)
PIP_REQUIREMENTS: Final = [f"{package}=={version(package)}" for package in REQUIRED]


class HistoryEvent(BaseModel):
    """One event of a raw history; `event_time` is ISO 8601, UTC where it names no zone."""

    item_id: str
    event_time: str
    event_type: str | None = None
    platform: str | None = None


class RecommendationRequest(BaseModel):
    """One list: for a user the model knows, for a raw history, or for both together.

    date     first day of the window asked for, ISO; at or after the model's cut-off
    list     again (anything) or discover (only what is new to the user)
    """

    date: str
    user_id: str | None = None
    history: list[HistoryEvent] | None = None
    exclude: list[str] | None = None
    k: int = 10
    region: str = "all"
    list: str = "again"


class RankedItem(BaseModel):
    """One item of a list; taste + habit + season = score."""

    rank: int
    item_id: str
    score: float
    taste: float
    habit: float
    season: float


class Recommendation(BaseModel):
    """The list that answers a request."""

    items: list[RankedItem]
    date: str
    user_id: str | None = None
    list: str


INPUT_EXAMPLE: Final = [{"date": "2030-07-01", "user_id": "someone", "k": 10, "list": "again"}]
