"""Losses against values worked by hand."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_modules import losses
from lightning_modules.pretraining import GBCE_CALIBRATION

LN2 = math.log(2)


def test_full_cross_entropy_is_the_log_of_the_targets_share() -> None:
    queries = torch.tensor([[1.0], [0.0]])
    items = torch.tensor([[0.0], [LN2], [math.log(3)]])  # shares 1 : 2 : 3 for the first query, 1 : 1 : 1 for the second
    loss = losses.full_cross_entropy(queries, items, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((math.log(6 / 2) + math.log(3)) / 2)


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_rows_at_once_change_neither_value_nor_gradient(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(5, 3, generator=generator), torch.randn(11, 3, generator=generator)
    targets, weights = torch.tensor([0, 4, 4, 10, 2]), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    wanted = []
    for compute in (
        lambda q, v: (functional.cross_entropy(q @ v.T, targets, reduction="none") * weights).sum() / weights.sum(),
        lambda q, v: losses.full_cross_entropy(q, v, targets, weights=weights, rows=rows),
    ):
        query, table = queries.clone().requires_grad_(), items.clone().requires_grad_()
        loss = compute(query, table)
        loss.backward()
        wanted.append((loss.detach(), query.grad, table.grad))
    for value in wanted[1:]:
        torch.testing.assert_close(value, wanted[0])


def test_full_cross_entropy_in_half_precision_has_the_gradient_of_its_own_value() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(64, 16, generator=generator), torch.randn(300, 16, generator=generator)
    targets = torch.arange(64)
    found = []
    for is_half in (False, True):
        query, table = queries.clone().requires_grad_(), items.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            loss = losses.full_cross_entropy(query, table, targets, rows=50)
        loss.backward()
        assert (loss.dtype, query.grad.dtype, table.grad.dtype) == (torch.float32,) * 3
        # shares sum to one: what pulls a query towards its target pushes it from the others
        found.append((loss.detach(), query.grad, table.grad, table.grad.sum(0)))
    for half, single in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(half, single, rtol=0.03, atol=0.003)
    assert not torch.equal(found[0][1], found[1][1])


def test_contrastive_loss_is_worked_by_hand() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # cosines: 1 1 / 0 0
    temperature = 1 / LN2  # exp(score) is 2 ** cosine
    by_row = (LN2 + LN2) / 2
    by_column = (-math.log(2 / 3) - math.log(1 / 3)) / 2
    assert losses.contrastive(first, second, temperature=temperature).item() == pytest.approx((by_row + by_column) / 2)


def test_contrastive_loss_falls_where_views_agree() -> None:
    views = torch.eye(6)
    assert losses.contrastive(views, views) < 0.05
    assert losses.contrastive(views, views.roll(1, 0)) > 4


def test_sampled_softmax_is_worked_by_hand() -> None:
    positive, negative = torch.tensor([LN2]), torch.tensor([[0.0, math.log(3)]])
    assert losses.sampled_softmax(positive, negative).item() == pytest.approx(math.log(6 / 2))
    is_target = torch.tensor([[False, True]])
    assert losses.sampled_softmax(positive, negative, is_target=is_target).item() == pytest.approx(math.log(3 / 2))


@pytest.mark.parametrize("has_logq", [False, True])
@pytest.mark.parametrize("is_half", [False, True])
def test_sampled_cross_entropy_has_value_and_gradients_of_the_plain_formula(has_logq: bool, is_half: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(number, 16, generator=generator) for number in (40, 40, 12)]  # queries, their targets, negatives
    targets, negatives = torch.randint(0, 9, (40,), generator=generator), torch.randint(0, 9, (12,), generator=generator)  # many hits
    weights = torch.rand(40, generator=generator) * (torch.arange(40) % 5 > 0)
    logq = torch.randn(12, generator=generator) if has_logq else None

    def plain(queries: torch.Tensor, of_targets: torch.Tensor, of_negatives: torch.Tensor) -> torch.Tensor:
        is_target = targets[:, None] == negatives
        positive = (queries * of_targets).sum(1)
        return losses.sampled_softmax(positive, queries @ of_negatives.T, negative_logq=logq, is_target=is_target, weights=weights)

    found = []
    for compute in (plain, lambda *x: losses.sampled_cross_entropy(*x, targets, negatives, logq=logq, weights=weights)):
        inputs = [x.clone().requires_grad_() for x in vectors]
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            loss = compute(*inputs)
        (3 * loss).backward()
        found.append((loss.detach(), *(x.grad for x in inputs)))
    for value, wanted in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(value, wanted, **({"rtol": 0.03, "atol": 0.003} if is_half else {}))


def test_logq_takes_the_frequency_of_sampling_out() -> None:
    positive, negative = torch.tensor([LN2]), torch.tensor([[math.log(3)]])
    corrected = losses.sampled_softmax(positive, negative, positive_logq=torch.tensor([math.log(0.5)]), negative_logq=torch.tensor([math.log(3.0)]))
    assert corrected.item() == pytest.approx(math.log((4 + 1) / 4))  # scores 2 / 0.5 and 3 / 3


def test_logq_corrected_samples_estimate_the_full_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50, generator=generator)
    probability = torch.softmax(2 * torch.randn(50, generator=generator), 0)
    drawn = torch.multinomial(probability, 200_000, replacement=True, generator=generator)
    full = functional.cross_entropy(scores[None], torch.tensor([3]))
    expected = torch.log(probability[drawn] * len(drawn))
    others = drawn != 3
    estimate = losses.sampled_softmax(scores[3:4], scores[drawn][others][None], negative_logq=expected[others])
    assert estimate.item() == pytest.approx(full.item(), rel=0.02)


def test_binary_cross_entropy_is_worked_by_hand() -> None:
    loss = losses.binary_cross_entropy(torch.tensor([0.0]), torch.tensor([[0.0, LN2]]))
    assert loss.item() == pytest.approx(LN2 + (LN2 + math.log(3)) / 2)  # sigmoid(-ln 2) = 1 / 3


def test_gbce_is_bce_at_calibration_zero_and_scales_the_positive_only() -> None:
    assert losses.gbce_beta(10, 101, 0.0) == pytest.approx(1.0)
    assert losses.gbce_beta(10, 101, 1.0) == pytest.approx(0.1)
    positive, negative = torch.tensor([0.0]), torch.tensor([[0.0]])
    assert losses.generalised_binary_cross_entropy(positive, negative, beta=0.1).item() == pytest.approx(0.1 * LN2 + LN2)


def test_gbce_beta_at_the_calibration_of_pretraining_is_worked_by_hand() -> None:
    assert GBCE_CALIBRATION == 0.75
    # 10 negatives of the 100 items that are not the target: alpha = 1/10, beta = 1/10 (3/4 (1 - 10) + 10) = 13/40
    assert losses.gbce_beta(10, 101, GBCE_CALIBRATION) == pytest.approx(13 / 40)
    # every other item is a negative: alpha = 1, beta = 1 at any calibration
    assert losses.gbce_beta(100, 101, GBCE_CALIBRATION) == pytest.approx(1.0)


def test_bpr_is_worked_by_hand() -> None:
    loss = losses.bayesian_personalised_ranking(torch.tensor([LN2]), torch.tensor([[0.0, LN2]]))
    assert loss.item() == pytest.approx((math.log(3 / 2) + LN2) / 2)


def test_a_negative_that_is_the_target_itself_counts_in_no_loss() -> None:
    positive, negative = torch.tensor([LN2, LN2]), torch.tensor([[0.0, LN2], [5.0, -7.0]])
    is_target = torch.tensor([[False, True], [True, True]])  # one other left, none left
    of_target, of_zero = math.log(3 / 2), LN2  # -log sigmoid of ln 2 and of 0
    assert losses.binary_cross_entropy(positive, negative, is_target=is_target).item() == pytest.approx(of_target + of_zero / 2)
    found = losses.generalised_binary_cross_entropy(positive, negative, beta=0.1, is_target=is_target)
    assert found.item() == pytest.approx(0.1 * of_target + of_zero / 2)
    assert losses.bayesian_personalised_ranking(positive, negative, is_target=is_target).item() == pytest.approx((of_target + 0) / 2)


@pytest.mark.slow
def test_the_full_softmax_of_a_million_items_stays_in_memory() -> None:
    """The whole table of scores would take 15 GiB; the gradient of the items alone is 0.24."""
    from benchmarks.training import measured_full_softmax  # heavy: it brings the libraries compared with

    found = {str(row["metric"]): row["value"] for row in measured_full_softmax()}
    assert 0.2 < found["GiB beyond queries and items"] < 1.5


def test_mean_squared_error_weighs_its_rows() -> None:
    loss = losses.mean_squared_error(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.5]), weights=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((4 + 3 * 0.25) / 4)


def test_a_weight_of_zero_leaves_a_row_out() -> None:
    positive, negative = torch.tensor([1.0, -9.0]), torch.tensor([[0.0, 0.5], [3.0, 4.0]])
    weights = torch.tensor([1.0, 0.0])
    for loss in (losses.sampled_softmax, losses.binary_cross_entropy, losses.bayesian_personalised_ranking):
        assert loss(positive, negative, weights=weights).item() == pytest.approx(loss(positive[:1], negative[:1]).item())


def test_half_precision_scores_give_a_single_precision_loss() -> None:
    loss = losses.sampled_softmax(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([[2.0]], dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
