"""A GPT block written out for a CPU in bf16: values and gradients of the plain one; histories in rows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.gpt import GPT
from lightning_modules.layouts import Packed

WIDTH = 16
LENGTHS = (3, 9, 5, 1, 9, 4, 7)


def states_and_gradients(encoder: GPT, x: Tensor, steps: Tensor, layout: Packed, is_half: bool) -> list[Tensor]:
    encoder.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        states = encoder(x, steps, steps, layout)
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return [states.detach(), x.grad, *(weight.grad.clone() for weight in encoder.parameters())]


def gpt(dropout: float) -> tuple[GPT, Tensor, Tensor, Packed]:
    torch.manual_seed(0)
    encoder = GPT(width=WIDTH, num_blocks=2, num_heads=2, dropout=dropout, max_history=12, feed_forward=2)
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x = torch.randn(sum(LENGTHS), WIDTH)
    steps = torch.cat([torch.arange(length) for length in LENGTHS])
    return encoder, x, steps, Packed(np.concatenate([[0], np.cumsum(LENGTHS)]))


def test_values_and_gradients_are_those_of_the_plain_block_up_to_rounding() -> None:
    encoder, x, steps, layout = gpt(dropout=0.0)
    single = states_and_gradients(encoder, x, steps, layout, is_half=False)
    half = states_and_gradients(encoder, x, steps, layout, is_half=True)
    assert not torch.equal(half[0], single[0])
    for found, wanted in zip(half, single, strict=True):
        assert found.dtype == wanted.dtype
        assert (found - wanted).norm() < 0.06 * wanted.norm()


@pytest.mark.parametrize("length", [3, 40])
def test_a_seed_fixes_what_is_dropped(length: int) -> None:
    encoder, *_ = gpt(dropout=0.5)
    offsets = np.array([0, length])
    x, steps = torch.randn(length, WIDTH), torch.arange(length) % 12
    torch.manual_seed(1)
    first = states_and_gradients(encoder, x, steps, Packed(offsets), is_half=True)[:2]
    torch.manual_seed(1)
    again = states_and_gradients(encoder, x, steps, Packed(offsets), is_half=True)[:2]
    other = states_and_gradients(encoder, x, steps, Packed(offsets), is_half=True)[:2]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_rows_hold_every_event_once_and_no_step_sees_another_history_or_the_future() -> None:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    grid = Packed(offsets).grid
    rows, _, steps, _ = grid.mask.shape
    assert (rows % 8, steps) == (0, 9)
    assert torch.equal(grid.index[grid.place], torch.arange(sum(LENGTHS)))
    assert len(grid.place.unique()) == sum(LENGTHS)
    history = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    seen = torch.zeros(sum(LENGTHS), sum(LENGTHS), dtype=torch.bool)
    for event, place in enumerate(grid.place.tolist()):
        row, step = divmod(place, steps)
        for other in range(sum(LENGTHS)):
            other_row, other_step = divmod(int(grid.place[other]), steps)
            seen[event, other] = other_row == row and bool(grid.mask[row, 0, step, other_step])
    wanted = torch.from_numpy((history[:, None] == history) & np.tri(sum(LENGTHS), dtype=bool))
    assert torch.equal(seen, wanted)
    assert (grid.mask.diagonal(dim1=2, dim2=3) == 1).all()


def test_the_gradient_goes_through_dropout_the_same_way() -> None:
    encoder, x, steps, layout = gpt(dropout=0.5)

    def states() -> Tensor:
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16):
            return encoder(x, steps, steps, layout)

    loss = states().square().mean()
    loss.backward()
    with torch.no_grad():
        length = torch.stack([weight.grad.square().sum() for weight in encoder.parameters()]).sum()
        rate = 0.02 * loss.detach() / length  # what a step against the gradient is worth, to first order
        for weight in encoder.parameters():
            weight.sub_(rate * weight.grad)
    torch.testing.assert_close(states().square().mean(), loss * 0.98, rtol=0.004, atol=0.0)
