"""The same recommender behind LitServe, for `benchmarks.serving`: `python -m benchmarks.litserve_server BUNDLE PORT MAX_BATCH DAY`.

Not a part of the product; LitServe is installed by the benchmark into a folder of its own.
"""

import sys
from datetime import date
from typing import Any

import litserve

from serving.answers import Ask, RankedList, answer_all
from serving.recommender import Recommender

BUNDLE, PORT, MAX_BATCH, DAY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), date.fromisoformat(sys.argv[4])


class RecommenderAPI(litserve.LitAPI):
    """Requests and answers as the service takes and gives them, without sessions, impressions or checks."""

    def setup(self, device: str) -> None:
        """Open the bundle and make it ready for the day the requests ask for, as the service does by itself."""
        self.recommender = Recommender.load(BUNDLE)
        self.recommender.warm(DAY)

    def decode_request(self, request: dict[str, Any]) -> Ask:
        """A request as the recommender takes it."""
        return Ask(date.fromisoformat(request["date"]), request["user_id"], list_name=request["list"])

    def predict(self, asks: Any) -> Any:
        """One list, or those of a batch."""
        return answer_all(self.recommender, asks) if isinstance(asks, list) else answer_all(self.recommender, [asks])[0]

    def encode_response(self, output: RankedList) -> dict[str, Any]:
        """A list as JSON."""
        return {"items": output.rows()}


if __name__ == "__main__":
    batching = {"max_batch_size": MAX_BATCH, "batch_timeout": 0.002} if MAX_BATCH > 1 else {}
    server = litserve.LitServer(RecommenderAPI(api_path="/recommend", **batching), accelerator="cpu", devices=1, workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error")
