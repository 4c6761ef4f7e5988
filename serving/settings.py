"""Settings of the HTTP service; every field can be given as an environment variable PERENNIAL_<NAME>."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class ServiceSettings(BaseModel):
    """One service process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: Annotated[str | None, Field(description="MLflow address the champion is loaded from.")] = None
    model_name: Annotated[str, Field(description="Registered model.")] = "perennial-recommender"
    alias: Annotated[str, Field(description="Alias that serves.")] = "champion"
    challenger_alias: Annotated[str, Field(description="Alias that can be asked beside it.")] = "challenger"
    bundle: Annotated[Path | None, Field(description="A bundle folder served as it is, without a registry.")] = None
    cache: Annotated[Path, Field(description="Folder of downloaded versions; the service starts from it when MLflow is away.")] = Path(
        ".perennial/serving/cache"
    )
    log_folder: Annotated[Path | None, Field(description="Folder of impressions and feedback, Parquet parts; none: nothing is logged.")] = Path(
        ".perennial/serving/log"
    )
    poll_seconds: Annotated[float, Field(gt=0, description="How often the registry is asked for a new champion, seconds.")] = 15.0
    redis_url: Annotated[str | None, Field(description="Store of sessions shared by workers; none: in this process.")] = None
    session_events: Annotated[int, Field(ge=1, le=10_000, description="Newest events of a running session that are kept.")] = 200
    session_seconds: Annotated[float, Field(gt=0, description="Time after which an idle session is forgotten, seconds.")] = 7 * 86_400.0
    max_body_bytes: Annotated[int, Field(ge=1_000, description="Largest request body, bytes.")] = 262_144
    max_batch_body_bytes: Annotated[int, Field(ge=1_000, description="Largest body of a batch request, bytes.")] = 8_388_608
    max_waiting: Annotated[int, Field(ge=1, description="Requests that may wait; further ones get 503 and Retry-After.")] = 64
    max_together: Annotated[int, Field(ge=1, le=256, description="Waiting requests that are scored in one pass.")] = 16
    timeout_seconds: Annotated[float, Field(gt=0, description="A request that waits longer gets 503, seconds.")] = 5.0
    threads: Annotated[int, Field(ge=1, le=64, description="Threads of one scoring pass.")] = 1
    api_key: Annotated[SecretStr | None, Field(description="When set, requests must carry it as X-API-Key.")] = None
    allow_origins: Annotated[tuple[str, ...], Field(description="Origins browsers may call from; none: same origin only.")] = ()
    hash_key: Annotated[SecretStr | None, Field(description="Key of pseudonymised user ids, as at ingest; ids are hashed on arrival.")] = None
    browse_users: Annotated[bool, Field(description="Let the page list user ids; for demonstrations.")] = False
    shadow_share: Annotated[
        float, Field(ge=0, le=1, description="Share of the requests the challenger scores too, out of sight; agreement is logged below `log_folder`.")
    ] = 0.0
    explore_share: Annotated[float, Field(ge=0, lt=1, description="Share of lists whose last place goes to a newcomer of the season.")] = 0.0
    max_lead_days: Annotated[int, Field(ge=0, description="Latest date that can be asked for, days after the cut-off.")] = 3_660
    warm_year: Annotated[bool, Field(description="Compute the season of the coming 53 weeks in the background after start.")] = True

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.bundle is None and self.tracking_uri is None:
            raise ValueError("nothing to serve: give PERENNIAL_TRACKING_URI (MLflow) or PERENNIAL_BUNDLE (a bundle folder)")
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Settings from PERENNIAL_* variables; lists are separated by commas. Raises ValueError that names the variable."""
        given: dict[str, object] = {}
        for name in cls.model_fields:
            value = environment.get(f"PERENNIAL_{name.upper()}")
            if value is not None and value != "":
                given[name] = tuple(part.strip() for part in value.split(",")) if name == "allow_origins" else value
        return cls.model_validate(given)
