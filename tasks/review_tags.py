"""What a review in the registry means: its tags, what an approval is bound to, and every reason against a promotion. Pure; reads no registry.

review            approved or rejected, set by a person in MLflow or by the flow `review-challenger`
reviewed_by       who, where that flow asked
review_of         <model>/<version>:<evaluation digest>, set by the step `gate` on the version it judged
compared_with     the champion of that evaluation, empty where there was none
trained_by        whose run made the version, set by the step `gate`
second_person     `required` where the approver must be somebody else, set by the step `gate`
quarantined       why this version must not serve again, set by a rollback

MLflow copies all tags of a version to its copies, `review=approved` too. An approval therefore counts only where `review_of` names the very version that
carries it: a copy, under this model or another, names the original and is refused, and so is a version whose evaluation changed after its gates.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

Decision = Literal["approved", "rejected"]

REVIEW: Final = "review"
APPROVED: Final = "approved"
REVIEWED_BY: Final = "reviewed_by"
REVIEW_NOTE: Final = "review_note"
REVIEW_OF: Final = "review_of"
TRAINED_BY: Final = "trained_by"
SECOND_PERSON: Final = "second_person"
REQUIRED: Final = "required"
QUARANTINED: Final = "quarantined"
COMPARED_WITH: Final = "compared_with"
EVALUATION_DIGEST: Final = "evaluation_digest"
BUNDLE_DIGEST: Final = "bundle_digest"
GATES: Final = ("gate_quality", "gate_servability")
PASSED: Final = "passed"
SOMEONE: Final = "a reviewer in MLflow (no name given)"


def review_subject(name: str, version: str, evaluation_digest: str) -> str:
    """What an approval is bound to; the value of `review_of`.

    Examples
    --------
    >>> review_subject("shop", "3", "9f2c")
    'shop/3:9f2c'
    """
    return f"{name}/{version}:{evaluation_digest}"


def refusals(name: str, version: str, tags: Mapping[str, str], *, champion: str | None, quarantined: str | None) -> tuple[str, ...]:
    """Every reason why a version may not become champion now; empty: it may.

    Parameters
    ----------
    tags
        Tags of the version as the registry holds them now.
    champion
        Number of the version that serves now, None where there is none.
    quarantined
        Why these weights were withdrawn, None where they were not (`quarantine_of`).
    """
    reasons = []
    if tags.get(REVIEW) != APPROVED:
        reasons.append(f"review: expected the tag review=approved, found {tags.get(REVIEW, 'none')}")
    subject = review_subject(name, version, tags.get(EVALUATION_DIGEST, "none"))
    if tags.get(REVIEW_OF) != subject:
        reasons.append(
            f"review_of: expected {subject}, found {tags.get(REVIEW_OF, 'none')}. A copy, or evaluated again after its gates: run the gates on this version"
        )
    reasons += [f"{gate}: expected passed, found {tags.get(gate, 'none')}" for gate in GATES if tags.get(gate) != PASSED]
    if (tags.get(COMPARED_WITH) or None) != champion:
        reasons.append(f"compared with champion {tags.get(COMPARED_WITH) or 'none'}, the champion now is {champion or 'none'}: evaluate against that one")
    if tags.get(SECOND_PERSON) == REQUIRED and tags.get(REVIEW) == APPROVED:
        reviewer, trainer = tags.get(REVIEWED_BY, "").strip(), tags.get(TRAINED_BY, "").strip()
        if not reviewer or reviewer.casefold() == trainer.casefold():
            reasons.append(f"reviewed_by: expected somebody other than {trainer or 'the trainer'}, found {reviewer or 'no name'}: use the deployment `review`")
    if quarantined:
        reasons.append(f"quarantined: {quarantined}")
    return tuple(reasons)


def quarantine_of(tags: Mapping[str, str], all_tags: Iterable[Mapping[str, str]]) -> str | None:
    """Why these weights were withdrawn; None where they were not. The same bundle registered again, or copied, stays withdrawn.

    `all_tags` are the tags of every version of the model.
    """
    if QUARANTINED in tags:
        return tags[QUARANTINED]
    bundle = tags.get(BUNDLE_DIGEST)
    return next((other[QUARANTINED] for other in all_tags if QUARANTINED in other and bundle and other.get(BUNDLE_DIGEST) == bundle), None)
