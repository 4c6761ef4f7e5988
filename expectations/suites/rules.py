"""How a rule is written down: a name, a sentence for people, what to do when it breaks, and how bad that is."""

from typing import Literal, TypedDict

Severity = Literal["critical", "warning"]


class RuleArguments(TypedDict):
    """What every expectation of ours carries beside its own arguments."""

    severity: Severity
    description: str
    meta: dict[str, str]


def rule(name: str, description: str, *, advice: str, severity: Severity = "critical") -> RuleArguments:
    """Arguments of an expectation.

    Parameters
    ----------
    name
        Short snake_case name; stands in quarantine, findings and errors.
    description
        What holds when the rule holds, as a sentence; the text of the Data Docs.
    advice
        What to try when it does not.
    """
    return RuleArguments(severity=severity, description=description, meta={"rule": name, "advice": advice})
