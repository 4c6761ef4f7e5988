"""Hostile input made from the service's own OpenAPI description: no case may end in an error of the server.

`SERVING_FUZZ_CASES` sets the cases per operation and kind, 640 make ten thousand in all (some minutes).
"""

import os
from collections import Counter

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode

CASES = int(os.environ.get("SERVING_FUZZ_CASES", "40"))


def fuzz(client: TestClient, operation: APIOperation, mode: GenerationMode, seen: Counter[int]) -> None:
    @settings(max_examples=CASES, derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        answer = client.request(
            **{name: value for name, value in sent.items() if name in {"method", "url", "json", "content", "data", "headers", "params", "cookies"}}
        )
        seen[answer.status_code] += 1
        is_served = answer.status_code < 500 or (answer.status_code == 503 and "retry-after" in answer.headers)
        assert is_served, f"{answer.status_code} {answer.text[:300]} for {case.as_curl_command()[:600]}"

    answers()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_case_ends_in_an_error_of_the_server(client: TestClient) -> None:
    description = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [found.ok() for found in description.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/recommend",
        "/batch",
        "/events",
        "/feedback",
        "/items",
        "/items/{item_id}/season",
        "/users/{user_id}/history",
    }
    seen: Counter[int] = Counter()
    for operation in operations:
        fuzz(client, operation, GenerationMode.POSITIVE, seen)
        if operation.body or operation.query or operation.path_parameters:
            fuzz(client, operation, GenerationMode.NEGATIVE, seen)
    print(f"{seen.total():,} cases: {dict(seen)}")
    assert seen[200] > 2 * CASES
    assert seen[422] > 2 * CASES
