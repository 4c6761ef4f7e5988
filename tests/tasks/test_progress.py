"""Bars of long steps, and the lines of a training process that move them."""

import pytest

from tasks.progress import progress_lines, progress_of


def test_progress_lines_move_the_bar_and_all_others_go_to_the_log():
    moved: list[tuple[float, str]] = []
    logged: list[str] = []
    read = progress_lines(lambda fraction, text: moved.append((fraction, text)), logged.append)
    for line in ("progress pretrain 0.25 period 3 of 9, loss 4.1", "progress pretrain 0.5", "", "   ", "epoch done", "progress without"):
        read(line)
    assert moved == [(0.25, "period 3 of 9, loss 4.1"), (0.5, "")]
    assert logged == ["epoch done", "progress without"]


def test_bar_ends_full_and_needs_no_server(capsys: pytest.CaptureFixture[str]):
    with progress_of("evaluate") as report:
        report(0.5, "half of it")
        report(7.0, "beyond the end")
    shown = capsys.readouterr().err
    assert "evaluate" in shown
    assert "100 %" in shown


def test_bar_of_a_step_that_fails_stays_where_it_was(capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        with progress_of("evaluate") as report:
            report(0.25, "a quarter")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert "100 %" not in capsys.readouterr().err
