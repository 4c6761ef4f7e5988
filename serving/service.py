"""The HTTP service: FastAPI on one event loop, one scoring thread.

`create_app(settings)` makes the application; `python -m serving` runs it. What it does with a request: check it, read the running
session, score it with whatever else waits, log what was shown, answer.
"""

import asyncio
import gc
import hmac
import logging
import random
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import polars as pl
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from pydantic import ValidationError

from contracts import columns as c
from contracts.errors import BundleError, TransientError
from contracts.tables import quantile_column
from serving import schemas as s
from serving.answers import Ask, Event, RankedList
from serving.batching import OverloadedError, Scorer
from serving.explanations import Counterfactual, Explanation, counterfactual, explain
from serving.exploration import Shown, explore
from serving.impressions import Feedback, Impression, ImpressionLog
from serving.limits import BodyLimit
from serving.measures import Measures, Measuring
from serving.online_store import InProcessStore, OnlineStore, RedisStore
from serving.recommender import Recommender
from serving.served_models import FixedModel, Registry, ServedModels
from serving.settings import ServiceSettings
from serving.shadow import Shadow
from serving.warming import Warming
from serving.year import Year
from sources.mapping import hash_ids, hash_key

PAGE: Final = Path(__file__).with_name("page.html")
USERS_AT_ONCE: Final = 128
SWITCH_SECONDS: Final = 0.001  # the event loop waits this long for the scoring thread to let go, not Python's 5 ms
PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": s.Problem, "description": "API key missing or wrong"},
    413: {"model": s.Problem, "description": "Body too large"},
    422: {"model": s.Problem, "description": "Wrong input, in words"},
    503: {"model": s.Problem, "description": "Not ready, or too many requests; Retry-After says when"},
}
NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {404: {"model": s.Problem, "description": "No such item, user or model"}}

logger = logging.getLogger("perennial.serving")


class Service:
    """What the routes share: models, sessions, log, measures."""

    def __init__(
        self, settings: ServiceSettings, *, registry: Registry | None = None, now: Callable[[], datetime] | None = None, seed: int | None = None
    ) -> None:
        self.settings = settings
        self.now = now or (lambda: datetime.now(UTC))
        self.measures = Measures()
        self.models = ServedModels(
            registry or _registry(settings),
            alias=settings.alias,
            challenger_alias=settings.challenger_alias,
            cache=settings.cache,
            threads=settings.threads,
            today=lambda: self.now().date(),
            on_change=self._on_change,
        )
        self.scorer = Scorer(max_waiting=settings.max_waiting, max_together=settings.max_together)
        self.store: OnlineStore = _store(settings)
        self.log = ImpressionLog(settings.log_folder) if settings.log_folder else None
        self.warming = Warming(settings.cache)
        self.shadow = _shadow(settings, self.models.challenger)
        self.year: Year | None = None
        self.problem: str | None = "the model is being loaded"
        self.rng = random.Random(seed)  # noqa: S311
        self._key = hash_key(settings.hash_key.get_secret_value(), variable="PERENNIAL_HASH_KEY") if settings.hash_key else None
        self._wake = asyncio.Event()

    # ---- models ---------------------------------------------------------------------------------------------------------

    def model(self, which: str = "champion") -> Recommender:
        """The model that answers. HTTPException 503 while there is none, 404 where there is no challenger."""
        if which == "challenger":
            found = self.models.challenger()
            if found is None:
                raise HTTPException(404, "there is no challenger at this time")
            return found
        if self.models.champion is None:
            raise HTTPException(503, f"not ready: {self.problem}", headers={"Retry-After": "2"})
        return self.models.champion

    async def watch(self) -> None:
        """Load the champion, then look for a new one every `poll_seconds` or when told to."""
        while True:
            try:
                if self.models.champion is None:
                    await asyncio.to_thread(self.models.start)
                    gc.freeze()  # a full collection over all that was loaded would stop requests for tens of milliseconds
                else:
                    await asyncio.to_thread(self.models.refresh)
                self.problem = None
                await self._keep_warm()
            except BundleError as error:
                self.problem = str(error)
                logger.error("%s", error)  # noqa: TRY400
            except Exception:
                logger.exception("looking for a model failed; it is tried again")
            self.measures.models(self.models)
            self._wake.clear()
            with_timeout = asyncio.wait_for(self._wake.wait(), self.settings.poll_seconds if self.models.champion else min(2.0, self.settings.poll_seconds))
            try:
                await with_timeout
            except TimeoutError:
                continue

    async def _keep_warm(self) -> None:
        """Make the champion ready for today; there is something to do after midnight only."""
        champion = self.models.champion
        if champion is not None and not champion.is_warm(today := self.day(None, champion)):
            await asyncio.to_thread(champion.warm, today, cache=self.settings.cache)

    def look_now(self) -> None:
        """Look for a new champion without waiting for the next turn: the promotion event arrived."""
        self._wake.set()

    def _on_change(self, found: Recommender) -> None:
        if self.year is not None:
            self.year.stop()
        self.year = Year(found, self.settings.cache)
        if self.settings.warm_year:
            self.year.start()

    # ---- one request ----------------------------------------------------------------------------------------------------

    def hidden(self, user_id: str) -> str:
        """User id as it is known behind the door: hashed where ids are pseudonymous."""
        return user_id if self._key is None else str(hash_ids(pl.Series([user_id]), self._key)[0])

    def day(self, asked: date | None, model: Recommender) -> date:
        """Request date, today if none was given. HTTPException 422 for a date the model cannot speak of."""
        last = model.cutoff + timedelta(days=self.settings.max_lead_days)
        if asked is None:
            return min(max(self.now().date(), model.cutoff), last)
        if not model.cutoff <= asked <= last:
            raise HTTPException(422, f"date: expected {model.cutoff} (the model's cut-off) to {last}, found {asked}")
        return asked

    def events(self, given: Sequence[s.SessionEvent], model: Recommender) -> tuple[tuple[Event, ...], int]:
        """Events on known items, and how many were on others. Times are UTC, now where there is none."""
        now = self.now()
        known = [Event(event.item_id, event.event_time or now, event.event_type, event.platform) for event in given if model.knows(event.item_id)]
        self.measures.unknown_items.inc(len(given) - len(known))
        return tuple(known), len(given) - len(known)

    async def ask(self, body: s.RecommendRequest, model: Recommender) -> tuple[Ask, int]:
        """The request as the model takes it, its session read, and the number of unknown items in it."""
        user = self.hidden(body.user_id) if body.user_id is not None else None
        given, num_unknown = self.events(body.events, model)
        stored = await self.session(user) if user is not None else ()
        excluded = tuple(item for item in body.exclude if model.knows(item))
        if user is None or not model.knows_user(user):
            self.measures.unknown_users.inc()
        ask = Ask(
            request_date=self.day(body.date, model),
            user_id=user,
            events=(*(event for event in stored if model.knows(event.item_id)), *given),
            list_name=body.list,
            k=body.k,
            exclude=excluded,
            region=body.region,
            category=body.category,
        )
        return ask, num_unknown + len(body.exclude) - len(excluded)

    async def session(self, user: str) -> tuple[Event, ...]:
        """Stored events of a user; none, noted and counted, while the store is away: a list without the session is better than no list."""
        try:
            return await self.store.events(user)
        except TransientError as error:
            self.measures.sessions_missed.inc()
            logger.warning("%s; answering without the session", error)
            return ()

    def note(self, request_id: str, ask: Ask, shown: Shown, version: str) -> None:
        """Log what is shown."""
        if self.log is None:
            return
        now = self.now()
        self.log.show(
            [
                Impression(request_id, position, ask.user_id, item_id, now, ask.list_name, version, shown.policy, propensity)
                for position, (item_id, propensity) in enumerate(zip(shown.found.item_ids, shown.propensities, strict=True), start=1)
            ]
        )

    async def close(self) -> None:
        """Finish what runs, write what is noted, give connections back."""
        if self.year is not None:
            self.year.stop()
        self.scorer.close()
        if self.shadow is not None:
            await asyncio.to_thread(self.shadow.close)
        if self.log is not None:
            await asyncio.to_thread(self.log.close)
        await self.store.close()


def _shadow(settings: ServiceSettings, challenger: Callable[[], Recommender | None]) -> Shadow | None:
    if not settings.shadow_share or settings.log_folder is None:
        return None
    return Shadow(challenger, settings.log_folder / "shadow", share=settings.shadow_share, draw=random.random)


def create_app(settings: ServiceSettings, *, registry: Registry | None = None, now: Callable[[], datetime] | None = None, seed: int | None = None) -> FastAPI:
    """The application. `registry`, `now` and `seed` are given by tests."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(settings, registry=registry, now=now, seed=seed)
        app.state.service = service
        watch = asyncio.create_task(service.watch())
        yield
        watch.cancel()
        await service.close()

    app = FastAPI(
        title="Perennial recommendations",
        version="1",
        description="Recommendations for a user, a running session and a date. Every score is taste + habit + season.",
        lifespan=lifespan,
        dependencies=[Depends(_key_check(settings))],
        responses=PROBLEMS,
    )
    app.state.needs_key = settings.api_key is not None
    app.add_middleware(Measuring)
    app.add_middleware(BodyLimit, default=settings.max_body_bytes, larger={"/batch": settings.max_batch_body_bytes})
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.allow_origins), allow_methods=["GET", "POST"], allow_headers=["content-type", "x-api-key"]
        )
    _add_problems(app)
    _add_recommendations(app)
    _add_catalogue(app)
    _add_operations(app)
    return app


def app_from_environment() -> FastAPI:
    """The application with settings from PERENNIAL_* variables; what each of several workers calls."""
    sys.setswitchinterval(SWITCH_SECONDS)
    return create_app(ServiceSettings.from_environment())


async def _service(request: Request) -> Service:  # async: a plain function would cost a change of threads
    found: Service = request.app.state.service
    return found


Shared = Annotated[Service, Depends(_service)]


# ---- routes ------------------------------------------------------------------------------------------------------------


class LeanRoute(APIRoute):
    """A route whose one body model is read straight from the request's JSON.

    Anything but a valid body of JSON goes the usual way, which says in words what is wrong with it. So does everything where requests must carry a key.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route."""
        usual = super().get_route_handler()
        (body_name, model) = next((name, kind) for name, kind in self.endpoint.__annotations__.items() if isinstance(kind, type) and issubclass(kind, s.Body))

        async def lean(request: Request) -> Response:
            if request.app.state.needs_key or request.headers.get("content-type") != "application/json":
                return await usual(request)
            try:
                body = model.model_validate_json(await request.body())
            except ValidationError:
                return await usual(request)
            answer: Response = await self.endpoint(**{body_name: body, "request": request})
            return answer

        return lean


def _add_recommendations(app: FastAPI) -> None:
    lean = APIRouter(route_class=LeanRoute)

    @lean.post("/recommend", response_model=s.RecommendResponse, responses=NOT_FOUND, tags=["recommendations"])
    async def recommend(body: s.RecommendRequest, request: Request) -> Response:
        """A list for a user, a running session and a date."""
        service: Service = request.app.state.service  # here, not as a dependency, which costs a quarter of what surrounds a list
        model = await asyncio.to_thread(service.model, body.model) if body.model == "challenger" else service.model()
        ask, num_unknown = await service.ask(body, model)
        service.warming.asked(model, ask.request_date)
        found = await service.scorer.answer(ask, model, timeout_seconds=service.settings.timeout_seconds)
        share = service.settings.explore_share
        shown = (
            await service.scorer.run(lambda: explore(model, ask, found, share=share, rng=service.rng))
            if share
            else explore(model, ask, found, share=0, rng=service.rng)
        )
        explanations, other = await service.scorer.run(lambda: _explained(model, ask, shown.found)) if body.explain else (None, None)
        request_id = str(uuid.UUID(int=service.rng.getrandbits(128), version=4))
        service.note(request_id, ask, shown, model.version)
        if service.shadow is not None and body.model != "challenger":
            service.shadow.offer(ask, found.item_ids, model.version)
        return _json(
            {
                "request_id": request_id,
                "user_id": body.user_id,
                "date": ask.request_date.isoformat(),
                "list": ask.list_name,
                "model_version": model.version,
                "policy": shown.policy,
                "unknown_items": num_unknown,
                "items": _items(model, shown.found, explanations),
                "counterfactual": other,
            }
        )

    app.include_router(lean)

    @app.post("/batch", response_model=s.BatchResponse, tags=["recommendations"])
    async def batch(body: s.BatchRequest, service: Shared) -> Response:
        """Lists for thousands of users at once; not logged as impressions, and running sessions do not count."""
        model = service.model()
        day = service.day(body.date, model)
        users = list(dict.fromkeys(body.user_ids))
        lists: dict[str, list[dict[str, Any]]] = {}
        for start in range(0, len(users), USERS_AT_ONCE):
            some = users[start : start + USERS_AT_ONCE]
            asks = [Ask(day, service.hidden(user), list_name=body.list, k=body.k, region=body.region) for user in some]
            for user, found in zip(some, await service.scorer.run(partial(service.scorer.score, model, asks)), strict=True):
                lists[user] = [{name: row[name] for name in s.BatchItem.model_fields} for row in found.rows()]
        return _json({"date": day.isoformat(), "list": body.list, "model_version": model.version, "lists": lists})

    @app.post("/events", response_model=s.EventsResponse, tags=["recommendations"])
    async def events(body: s.EventsRequest, service: Shared) -> Response:
        """New events of a user; the next list knows them."""
        given, num_unknown = service.events(body.events, service.model())
        await service.store.append(service.hidden(body.user_id), given)
        return _json({"accepted": len(given), "unknown_items": num_unknown})

    @app.post("/feedback", response_model=s.FeedbackResponse, tags=["recommendations"])
    async def feedback(body: s.FeedbackRequest, service: Shared) -> Response:
        """What came of a list that was shown."""
        if service.log is not None:
            now = service.now()
            service.log.reward([Feedback(body.request_id, reward.item_id, reward.reward, now) for reward in body.rewards])
        service.measures.feedback.inc(len(body.rewards))
        return _json({"accepted": len(body.rewards)})


def _add_catalogue(app: FastAPI) -> None:
    @app.get("/model", response_model=s.ModelInfo, tags=["model"])
    async def model_info(service: Shared) -> Response:
        """What serves, and which dates can be asked for."""
        model = service.model()
        challenger = await asyncio.to_thread(service.models.challenger)
        metadata = model.bundle.metadata
        return _json(
            {
                "name": metadata.name,
                "version": model.version,
                "challenger": None if challenger is None else challenger.version,
                "cutoff": model.cutoff.isoformat(),
                "horizon_days": metadata.horizon_days,
                "first_date": model.cutoff.isoformat(),
                "last_date": (model.cutoff + timedelta(days=service.settings.max_lead_days)).isoformat(),
                "lists": list(model.lists),
                "num_items": len(model.item_ids),
                "num_users": len(model.users),
                "can_browse_users": service.settings.browse_users,
                "year_ready": service.year is not None and service.year.is_ready,
            }
        )

    @app.get("/items", response_model=list[s.CatalogueItem], tags=["catalogue"])
    async def items(service: Shared, query: Annotated[str, Query(max_length=100)] = "", limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Response:
        """Items whose title, category or id holds the words of `query`; the best known first."""
        model = service.model()
        found = await asyncio.to_thread(model.search, query, limit)
        return _json([_item(model, item_id) for item_id in found])

    @app.get("/items/{item_id}/season", response_model=s.ItemSeason, responses=NOT_FOUND, tags=["catalogue"])
    async def item_season(item_id: str, service: Shared) -> Response:
        """An item's coming year in numbers: season week by week, past sales, forecast."""
        model, year = service.model(), service.year
        if not model.knows(item_id):
            raise HTTPException(404, f"no item {item_id[:80]!r} in model version {model.version}")
        if year is None or not year.is_ready:
            done = 0 if year is None else year.weeks_done
            raise HTTPException(503, f"the year is being computed: {done} of {len(year.dates) if year else 53} weeks", headers={"Retry-After": "5"})
        return _json(await asyncio.to_thread(_item_season, model, year, item_id))

    @app.get("/users", response_model=list[str], responses=NOT_FOUND, tags=["catalogue"])
    async def users(service: Shared, query: Annotated[str, Query(max_length=100)] = "", limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Response:
        """Users that begin with `query`; only where browsing is switched on."""
        model = _browsable(service)
        return _json([user for user in model.users if user.startswith(query)][:limit])

    @app.get("/users/{user_id}/history", response_model=list[s.CatalogueItem], responses=NOT_FOUND, tags=["catalogue"])
    async def history(user_id: str, service: Shared, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Response:
        """Newest distinct items of a user; only where browsing is switched on."""
        model = _browsable(service)
        if not model.knows_user(user_id):
            raise HTTPException(404, "no such user in this model")
        return _json([_item(model, item_id) for item_id in model.newest_items(user_id, limit)])


def _add_operations(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(), headers={"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"})

    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, bool]:
        """The process lives."""
        return {"ok": True}

    @app.get("/readyz", tags=["operations"])
    async def readyz(service: Shared) -> dict[str, str]:
        """A model answers."""
        return {"model_version": service.model().version}

    @app.get("/metrics", tags=["operations"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(service: Shared) -> Response:
        """Measures in Prometheus' text format."""
        service.measures.waiting.set(service.scorer.num_waiting)
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4")

    @app.post("/refresh", status_code=202, tags=["operations"])
    async def refresh(service: Shared) -> dict[str, str]:
        """Look for a new champion now; for the promotion event."""
        service.look_now()
        return {"status": "looking"}


# ---- around the routes ---------------------------------------------------------------------------------------------------


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(f"{'.'.join(str(part) for part in fault['loc'] if part != 'body') or 'body'}: {fault['msg']}" for fault in error.errors()[:10])
        return JSONResponse({"detail": faults}, status_code=422)

    @app.exception_handler(ValueError)
    async def wrong(_: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)[:500]}, status_code=422)

    @app.exception_handler(TransientError)
    async def away(_: Request, error: TransientError) -> JSONResponse:
        return JSONResponse({"detail": str(error)[:500]}, status_code=503, headers={"Retry-After": "2"})

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return JSONResponse({"detail": f"{error}; try again shortly"}, status_code=503, headers={"Retry-After": "1"})


def _key_check(settings: ServiceSettings) -> Callable[..., Awaitable[None]]:
    """Dependency that refuses requests without the key, compared in constant time; health and the page itself are open."""
    header = APIKeyHeader(name="X-API-Key", auto_error=False)

    async def check(request: Request, given: Annotated[str | None, Depends(header)] = None) -> None:
        if settings.api_key is None or request.url.path in ("/", "/healthz", "/readyz"):
            return
        if not hmac.compare_digest((given or "").encode(), settings.api_key.get_secret_value().encode()):
            raise HTTPException(401, "X-API-Key is missing or wrong")

    return check


def _registry(settings: ServiceSettings) -> Registry:
    if settings.bundle is not None:
        return FixedModel(settings.bundle)
    from serving.registry import ModelRegistry

    assert settings.tracking_uri is not None
    return ModelRegistry(settings.tracking_uri, settings.model_name, settings.cache)


def _store(settings: ServiceSettings) -> OnlineStore:
    limits: dict[str, Any] = {"max_events": settings.session_events, "keep_seconds": settings.session_seconds}
    return RedisStore.connect(settings.redis_url, **limits) if settings.redis_url else InProcessStore(**limits)


def _browsable(service: Service) -> Recommender:
    if not service.settings.browse_users:
        raise HTTPException(404, "browsing users is switched off (PERENNIAL_BROWSE_USERS)")
    return service.model()


# ---- answers as JSON --------------------------------------------------------------------------------------------------------


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _item(model: Recommender, item_id: str) -> dict[str, Any]:
    return {c.ITEM_ID: item_id, c.TITLE: model.title_of(item_id), c.CATEGORY: model.category_of(item_id)}


def _items(model: Recommender, found: RankedList, explanations: Sequence[Explanation] | None) -> list[dict[str, Any]]:
    rows = [_item(model, row[c.ITEM_ID]) | row for row in found.rows()]
    for row, explanation in zip(rows, explanations or (), strict=bool(explanations)):
        row["reasons"] = explanation.reasons
        row["because"] = [{c.ITEM_ID: because.item_id, c.TITLE: model.title_of(because.item_id), "drop": because.drop} for because in explanation.because]
    return rows


def _explained(model: Recommender, ask: Ask, found: RankedList) -> tuple[list[Explanation], dict[str, Any] | None]:
    explanations = explain(model, ask, found)
    strongest = max((because for explanation in explanations for because in explanation.because), key=lambda because: because.drop, default=None)
    other: Counterfactual | None = counterfactual(model, ask, found, strongest.item_id) if strongest else None
    if other is None or not other.gone:
        return explanations, None
    return explanations, {"without": other.without, "without_title": model.title_of(other.without), "gone": other.gone, "instead": other.instead}


def _item_season(model: Recommender, year: Year, item_id: str) -> dict[str, Any]:
    whose, forecast = model.forecast_of(item_id)
    low, high = quantile_column(0.1), quantile_column(0.9)
    return {
        **_item(model, item_id),
        "season": [
            {c.DATE: day.isoformat(), "again": again, "discover": discover} for day, again, discover in year.of_item(int(model.positions_of([item_id])[0]))
        ],
        "past": [{c.DATE: day.isoformat(), c.BUYERS: buyers} for day, buyers in model.past_weeks(item_id)],
        "forecast": [
            {c.DATE: row[c.DATE].isoformat(), c.MEAN: row[c.MEAN], "low": row.get(low), "high": row.get(high)} for row in forecast.iter_rows(named=True)
        ],
        "forecast_of": whose,
    }


@lru_cache(maxsize=1)
def _page() -> str:
    return PAGE.read_text(encoding="utf-8")
