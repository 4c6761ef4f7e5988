"""Dropout on a CPU: the share, the mean, the seed, the gradient."""

import pytest
import torch

from lightning_modules.dropout import dropout


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_the_share_is_zeroed_and_the_mean_stays(share: float) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(1_000_003), share, True)  # not a multiple of the values one draw serves
    assert (found == 0).float().mean().item() == pytest.approx(share, abs=0.002)
    assert found.mean().item() == pytest.approx(1.0, abs=0.01)
    assert found.unique().numel() == 2


def test_neighbours_are_drawn_apart() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1_000_000), 0.5, True) > 0).float().reshape(-1, 4)  # four values share one draw of 64 bits
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.01


def test_a_seed_fixes_what_is_dropped_and_the_gradient_goes_the_same_way() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        x = torch.ones(40, 5, requires_grad=True)
        found = dropout(x, 0.3, True)
        found.sum().backward()
        assert torch.equal(x.grad, found.detach())
        drawn.append(found.detach())
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], dropout(torch.ones(40, 5), 0.3, True))


def test_nothing_is_dropped_where_nothing_is_learned_or_asked() -> None:
    x = torch.randn(4, 3)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
