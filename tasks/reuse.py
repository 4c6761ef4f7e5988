"""Options all tasks share: reuse of finished work by content, retries for what may pass by itself, a time limit."""

from collections.abc import Callable
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from pydantic import BaseModel

from contracts.artifacts import text_digest
from contracts.errors import TransientError
from tasks.store import Store, code_version, model_text

RETRY_DELAYS_SECONDS = [2, 10, 30]


def reusable(*code: str, minutes: int = 60) -> dict[str, Any]:
    """Options of a task that is not run again for the same inputs and the same source in `code`: our folders, or single files of them."""
    return {**_always(minutes), "persist_result": True, "result_serializer": "json", "cache_key_fn": _content_key(code)}


def run_each_time(*, minutes: int = 60) -> dict[str, Any]:
    """Options of a task whose result depends on the outside world: it runs in every flow run."""
    return {**_always(minutes), "cache_policy": NO_CACHE, "persist_result": False}


def is_fresh() -> bool:
    """Whether this run was asked to forget finished work; a step that keeps unfinished work of its own empties its folder then."""
    return bool(PREFECT_TASKS_REFRESH_CACHE.value())


def _always(minutes: int) -> dict[str, Any]:
    return {
        "retries": len(RETRY_DELAYS_SECONDS),
        "retry_delay_seconds": RETRY_DELAYS_SECONDS,
        "retry_condition_fn": _may_pass_by_itself,
        "timeout_seconds": minutes * 60,
    }


def _content_key(code: tuple[str, ...]) -> Callable[[Any, dict[str, Any]], str]:
    def key(context: Any, parameters: dict[str, Any]) -> str:
        texts = [f"{name}={_text(value)}" for name, value in sorted(parameters.items())]
        return f"{context.task.name}-{text_digest(*texts, code_version((*code, 'tasks')))}"

    return key


def _text(value: Any) -> str:
    if isinstance(value, Store):
        return f"{value.root} {value.identity()}"
    if isinstance(value, BaseModel):
        return model_text(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(part) for part in value) + "]"
    return repr(value)


def _may_pass_by_itself(task: Any, run: Any, state: Any) -> bool:
    """Whether a failed try is worth another: only errors marked as transient are."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
