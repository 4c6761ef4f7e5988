"""Measures of the service, as Prometheus reads them. One registry per application: two can live in one process."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.served_models import ServedModels

BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Measures:
    """Counters, gauges and the latency of requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("perennial_requests", "Requests by route and status.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("perennial_request_seconds", "Time to answer by route, seconds.", ["route"], buckets=BUCKETS, registry=self.registry)
        self.waiting = Gauge("perennial_waiting", "Requests waiting for the scoring thread.", registry=self.registry)
        self.unknown_users = Counter("perennial_unknown_users", "Lists for users the model does not know.", registry=self.registry)
        self.unknown_items = Counter("perennial_unknown_items", "Items of events the model does not know.", registry=self.registry)
        self.sessions_missed = Counter("perennial_sessions_missed", "Lists made without the session, its store being away.", registry=self.registry)
        self.feedback = Counter("perennial_feedback", "Rewards received.", registry=self.registry)
        self.swaps = Gauge("perennial_model_swaps", "Changes of the champion since start.", registry=self.registry)
        self.refused = Gauge("perennial_models_refused", "Versions refused since start.", registry=self.registry)
        self.registry_answers = Gauge("perennial_registry_answers", "1 while the model registry answers.", registry=self.registry)
        self.model = Gauge("perennial_model", "1 for the version that serves.", ["version", "cutoff"], registry=self.registry)

    def models(self, models: ServedModels) -> None:
        """Take over what is known of the served models."""
        self.swaps.set(models.swaps)
        self.refused.set(len(models.refused))
        self.registry_answers.set(models.registry_answers)
        if models.champion is not None:
            self.model.clear()
            self.model.labels(models.champion.version, models.champion.cutoff.isoformat()).set(1)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Note one request. `route` is the path's pattern, so item ids are no labels."""
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class Measuring:
    """ASGI middleware: every request's route, status and time go to the application's measures."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            scope["app"].state.service.measures.request(route, status, time.perf_counter() - started)
