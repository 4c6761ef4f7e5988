"""The registered model: a thin pyfunc around `Recommender`, logged from this file (models from code) with the bundle as its artifact.

MLflow runs this file again on loading and the bundle is data: nothing is pickled. `serving.registered_model` says how it is logged.
"""

from datetime import UTC, date, datetime

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from serving.answers import Ask, Event, answer_all
from serving.recommender import Recommender
from serving.registered_model import BUNDLE, RankedItem, Recommendation, RecommendationRequest


class RecommenderModel(PythonModel):
    """Answers lists of `RecommendationRequest`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle that was logged with the model."""
        self.recommender = Recommender.load(context.artifacts[BUNDLE])

    def predict(self, model_input: list[RecommendationRequest]) -> list[Recommendation]:  # type: ignore[override]  # MLflow reads the schema off this signature
        """One answer per request, in order."""
        answers = answer_all(self.recommender, [_ask(request) for request in model_input])
        return [
            Recommendation(items=[RankedItem.model_validate(row) for row in answer.rows()], date=request.date, user_id=request.user_id, list=request.list)
            for request, answer in zip(model_input, answers, strict=True)
        ]


def _ask(request: RecommendationRequest) -> Ask:
    return Ask(
        request_date=date.fromisoformat(request.date),
        user_id=request.user_id,
        events=tuple(Event(event.item_id, _utc(event.event_time), event.event_type, event.platform) for event in request.history or ()),
        list_name=request.list,
        k=request.k,
        exclude=tuple(request.exclude or ()),
        region=request.region,
    )


def _utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


set_model(RecommenderModel())
