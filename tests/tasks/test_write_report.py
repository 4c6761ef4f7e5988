from contracts.artifacts import GateResult, PromotionOutcome
from tasks.write_report import decision_of

OPEN = GateResult(name="servability", passed=True, reasons=("size 3 MB; at most 10 MB is allowed",))
SHUT = GateResult(name="quality", passed=False, reasons=("again: -3.0% against ease", "coverage is enough"), failures=("again: -3.0% against ease",))


def test_what_shut_a_gate_is_the_reason_and_the_cards_hold_the_rest():
    decision = decision_of(PromotionOutcome(challenger=False, promoted=False, reasons=("quality: again: -3.0% against ease",), gates=(SHUT, OPEN)))
    assert decision.reasons == ("quality: again: -3.0% against ease",)
    assert decision.gates == (SHUT, OPEN)


def test_passed_gates_are_one_reason_and_what_came_after_them_another():
    opened = SHUT.model_copy(update={"passed": True, "failures": ()})
    reasons = (*(f"quality: {reason}" for reason in opened.reasons), f"servability: {OPEN.reasons[0]}", "version 3 waits for a review")
    decision = decision_of(PromotionOutcome(challenger=True, promoted=False, reasons=reasons, gates=(opened, OPEN)))
    assert decision.reasons == ("quality and servability gates passed", "version 3 waits for a review")


def test_a_decision_without_gates_keeps_its_reasons():
    assert decision_of(PromotionOutcome(challenger=True, promoted=True, reasons=("version 1 is the champion already",))).reasons == (
        "version 1 is the champion already",
    )
