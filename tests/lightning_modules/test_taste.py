"""Taste: packed and padded batches agree, nothing looks ahead, the parts do what they say."""

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from torch import Tensor

from contracts.sections.training import EncoderConfig
from lightning_modules.export import export_encoder
from lightning_modules.hstu import PointwiseBlock
from lightning_modules.layouts import Packed, Padded
from lightning_modules.taste import ENCODERS, Taste, build_encoder, build_taste, calendar, category_nodes
from lightning_modules.transformer_xl import RelativeBlock, sinusoids

NUM_ITEMS, WIDTH = 11, 8
LENGTHS = (3, 5, 5, 1, 9)


def taste(kind: str = "gpt") -> Taste:
    torch.manual_seed(0)
    config = EncoderConfig(kind=kind, width=WIDTH, num_blocks=2, num_heads=2, max_history=12, dropout=0.1)
    nodes = torch.tensor([[1 + item % 2, 3 + item % 4] for item in range(NUM_ITEMS)])
    built = build_taste(config, nodes, num_items=NUM_ITEMS, num_event_types=2).eval()
    for parameter in built.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)  # what starts at nothing must count here
    return built


def histories(seed: int = 0) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    items = [torch.randint(0, NUM_ITEMS, (length,), generator=generator) for length in LENGTHS]
    days = [torch.randint(18_000, 18_400, (length,), generator=generator).sort().values for length in LENGTHS]
    types = [torch.randint(0, 3, (length,), generator=generator) for length in LENGTHS]
    return items, days, types


def packed_states(model: Taste, items: list[Tensor], days: list[Tensor], types: list[Tensor]) -> Tensor:
    offsets = np.concatenate([[0], np.cumsum([len(x) for x in items])])
    gaps = torch.cat([torch.diff(x, prepend=x[:1]) for x in days])
    steps = torch.cat([torch.arange(len(x)) for x in items])
    return model.states(model.items(torch.cat(items)), torch.cat(types), gaps, torch.cat(days), steps, Packed(offsets))


def padded(rows: list[Tensor], fill: int = 0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_packed_and_padded_batches_give_the_same_query(kind: str) -> None:
    model, (items, days, types) = taste(kind), histories()
    if not model.encoder.is_causal:
        pytest.skip("a bidirectional encoder is asked through a masked event: see below")
    request, lead = torch.full((5,), 18_500), torch.tensor([0.0, 7.0, 0.0, 28.0, 3.0])
    with torch.no_grad():
        states = packed_states(model, items, days, types)
        ends = torch.tensor(LENGTHS).cumsum(0) - 1
        since = request - torch.stack([x[-1] for x in days])
        wanted = model.request(states[ends], request, lead, since)
        query = model(padded(items), padded(days), padded(types), torch.tensor(LENGTHS), request, lead)
    torch.testing.assert_close(query, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_what_lies_in_the_padding_changes_nothing(kind: str) -> None:
    model, (items, days, types) = taste(kind), histories()
    arguments = (torch.tensor(LENGTHS), torch.full((5,), 18_500), torch.zeros(5))
    with torch.no_grad():
        one = model(padded(items), padded(days), padded(types), *arguments)
        two = model(padded(items, 7), padded(days, 18_499), padded(types, 2), *arguments)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_a_later_event_changes_no_earlier_state(kind: str) -> None:
    model, (items, days, types) = taste(kind), histories()
    if not model.encoder.is_causal:
        pytest.skip("bidirectional: it sees only what is known at the request")
    changed = [*items[:4], torch.cat([items[4][:6], (items[4][6:] + 1) % NUM_ITEMS])]
    with torch.no_grad():
        one, two = packed_states(model, items, days, types), packed_states(model, changed, days, types)
    same = sum(LENGTHS[:4]) + 6
    torch.testing.assert_close(one[:same], two[:same])
    assert (one[same:] - two[same:]).abs().max() > 1e-4


@pytest.mark.parametrize("what", ["types", "gaps", "days"])
@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_type_gap_and_day_of_an_event_count_from_there_on(kind: str, what: str) -> None:
    model, (items, days, types) = taste(kind), histories()
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    inputs = {"types": torch.cat(types), "gaps": torch.cat([torch.diff(x, prepend=x[:1]) for x in days]), "days": torch.cat(days)}
    steps = torch.cat([torch.arange(length) for length in LENGTHS])
    begin = int(offsets[4])
    at = begin + 2
    other = inputs[what].clone()
    other[at] = {"types": (other[at] + 1) % 3, "gaps": other[at] + 200, "days": other[at] + 91}[what]
    with torch.no_grad():
        vectors = model.items(torch.cat(items))
        one, two = (model.states(vectors, **given, steps=steps, layout=Packed(offsets)) for given in (inputs, inputs | {what: other}))
    first = at if model.encoder.is_causal else begin
    torch.testing.assert_close(one[:first], two[:first])
    assert (one[first:] - two[first:]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_histories_in_one_batch_do_not_see_each_other(kind: str) -> None:
    model, (items, days, types) = taste(kind), histories()
    with torch.no_grad():
        together = packed_states(model, items, days, types)
        alone = torch.cat([packed_states(model, [i], [d], [t]) for i, d, t in zip(items, days, types, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_bidirectional_encoder_is_asked_through_a_masked_event() -> None:
    model, (items, days, types) = taste("bert"), histories()
    request, lead = torch.full((5,), 18_500), torch.tensor([0.0, 7.0, 0.0, 28.0, 3.0])
    ends = torch.tensor([length + 1 for length in LENGTHS]).cumsum(0) - 1
    with torch.no_grad():
        more_days = [torch.cat([x, request[:1]]) for x in days]
        offsets = np.concatenate([[0], ends.numpy() + 1])
        vectors = torch.cat([torch.cat([model.items(x), model.mask]) for x in items])
        gaps = torch.cat([torch.diff(x, prepend=x[:1]) for x in more_days])
        steps = torch.cat([torch.arange(len(x)) for x in more_days])
        kinds = torch.cat([torch.cat([x, torch.zeros(1, dtype=torch.long)]) for x in types])
        states = model.states(vectors, kinds, gaps, torch.cat(more_days), steps, Packed(offsets))
        wanted = model.request(states[ends], request, lead, request - torch.stack([x[-1] for x in days]))
        query = model(padded(items), padded(days), padded(types), torch.tensor(LENGTHS), request, lead)
    torch.testing.assert_close(query, wanted, atol=1e-5, rtol=1e-5)


def test_the_date_of_the_request_changes_the_query() -> None:
    model, (items, days, types) = taste(), histories()
    arguments = (padded(items), padded(days), padded(types), torch.tensor(LENGTHS))
    with torch.no_grad():
        winter, summer = (model(*arguments, torch.full((5,), day), torch.zeros(5)) for day in (18_420, 18_602))
        ahead = model(*arguments, torch.full((5,), 18_420), torch.full((5,), 20.0))
    assert (winter - summer).abs().max() > 1e-3
    assert (winter - ahead).abs().max() > 1e-4


def test_a_user_nothing_is_known_of_gets_a_query_for_the_date() -> None:
    model = taste()
    empty = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        query = model(empty, empty, empty, torch.tensor([0]), torch.tensor([18_500]), torch.zeros(1))
        other = model(empty + 3, empty + 9_000, empty, torch.tensor([0]), torch.tensor([18_500]), torch.zeros(1))
    assert torch.isfinite(query).all()
    torch.testing.assert_close(query, other)


def test_the_calendar_turns_once_a_year_and_once_a_week() -> None:
    day = torch.tensor([18_000])
    week = calendar(day + 7)[0]
    year = calendar(day + 365)[0]
    assert torch.equal(calendar(day)[0, 3:5], week[3:5])
    assert (calendar(day)[0, :3] - year[:3]).abs().max() < 0.02
    assert (calendar(day)[0, 0] - calendar(day + 182)[0, 0]).abs() + (calendar(day)[0, 5] - calendar(day + 182)[0, 5]).abs() > 1.0


def test_without_the_year_only_the_week_of_a_date_counts() -> None:
    model, (items, days, types) = taste(), histories()
    model.forget_year()
    arguments = (padded(items), padded(days), padded(types), torch.tensor(LENGTHS))
    since = torch.zeros(5)
    state = torch.randn(5, WIDTH)
    with torch.no_grad():
        one, later, tuesday = (model.request(state, torch.full((5,), day), since, since) for day in (18_480, 18_480 + 26 * 7, 18_481))
        assert model(*arguments, torch.full((5,), 18_480), since).isfinite().all()
    torch.testing.assert_close(one, later)
    assert (one - tuesday).abs().max() > 1e-3


def test_an_unknown_encoder_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"found 'lstm', known: .*gpt"):
        build_encoder("lstm", width=8, num_blocks=1, num_heads=1, dropout=0.0, max_history=4)


def test_category_nodes_are_the_prefixes_of_the_paths(tmp_path: Path) -> None:
    path = str(tmp_path / "items.parquet")
    pl.DataFrame(
        {"item_index": [0, 1, 3], "category": ["food > bread", "food", "home > bath > soap"]}, schema_overrides={"item_index": pl.Int32}
    ).write_parquet(path)
    nodes = category_nodes(path, 4)
    # alphabetical: food, food > bread, home, home > bath, home > bath > soap
    assert nodes.tolist() == [[1, 2, 0], [1, 0, 0], [0, 0, 0], [3, 4, 5]]


def test_items_without_a_row_of_their_own_begin_at_their_category() -> None:
    model = taste()
    with torch.no_grad():
        model.items.own.weight[4] = 0.0
        vector = model.items(torch.tensor([4]))[0]
    torch.testing.assert_close(vector, model.items.nodes.weight[1] + model.items.nodes.weight[3])


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_one_batch_can_be_learned_by_heart(kind: str) -> None:
    model, (items, days, types) = taste(kind).train(), histories()
    model.dropout = 0.0
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    wanted = torch.tensor([1, 3, 5, 7, 9])
    ends = torch.tensor(LENGTHS).cumsum(0) - 1
    for _ in range(60):
        states = packed_states(model, items, days, types)
        loss = torch.nn.functional.cross_entropy(states[ends] @ model.items.all().T, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_gpt_blocks_equal_gpt2_with_the_same_weights() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=2, n_head=2, n_positions=12, vocab_size=5, activation_function="gelu", attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
    )
    torch.manual_seed(1)
    reference = transformers.GPT2Model(config).eval()
    ours = build_encoder("gpt", width=WIDTH, num_blocks=2, num_heads=2, dropout=0.0, max_history=12).eval()
    with torch.no_grad():
        for block, other in zip(ours.blocks, reference.h, strict=True):
            for mine, theirs in (
                (block.attention.inputs, other.attn.c_attn),
                (block.attention.output, other.attn.c_proj),
                (block.up, other.mlp.c_fc),
                (block.down, other.mlp.c_proj),
            ):
                torch.nn.init.normal_(theirs.bias)
                mine.weight.copy_(theirs.weight.T)
                mine.bias.copy_(theirs.bias)
            for mine, theirs in ((block.norm_1, other.ln_1), (block.norm_2, other.ln_2)):
                mine.load_state_dict(theirs.state_dict())
        ours.norm.load_state_dict(reference.ln_f.state_dict())
        ours.positions.weight.copy_(reference.wpe.weight)
        x = torch.randn(3, 7, WIDTH)
        steps = torch.arange(7).expand(3, 7)
        wanted = reference(inputs_embeds=x).last_hidden_state
        found = ours(x, steps, steps, Padded(torch.full((3,), 7)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_bert_blocks_equal_hugging_faces_with_the_same_weights() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_size=5,
    )
    torch.manual_seed(1)
    reference = transformers.BertModel(config, add_pooling_layer=False).eval().encoder
    ours = build_encoder("bert", width=WIDTH, num_blocks=2, num_heads=2, dropout=0.0, max_history=12).eval()
    with torch.no_grad():
        for block, other in zip(ours.blocks, reference.layer, strict=True):
            attention = other.attention.self
            block.inputs.weight.copy_(torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]))
            block.inputs.bias.copy_(torch.cat([torch.nn.init.normal_(part.bias) for part in (attention.query, attention.key, attention.value)]))
            for mine, theirs in (
                (block.output, other.attention.output.dense),
                (block.norm_1, other.attention.output.LayerNorm),
                (block.up, other.intermediate.dense),
                (block.down, other.output.dense),
                (block.norm_2, other.output.LayerNorm),
            ):
                torch.nn.init.normal_(theirs.bias)
                mine.load_state_dict(theirs.state_dict())
        x, lengths = torch.randn(3, 7, WIDTH), torch.tensor([7, 4, 5])
        is_real = torch.arange(7) < lengths[:, None]
        wanted = reference(x, attention_mask=torch.where(is_real, 0.0, torch.finfo().min)[:, None, None, :]).last_hidden_state
        found = x
        for block in ours.blocks:
            found = block(found, Padded(lengths))
    torch.testing.assert_close(found[is_real], wanted[is_real], atol=1e-5, rtol=1e-5)


def test_hstu_equals_the_loop_of_the_paper() -> None:
    torch.manual_seed(2)
    block = PointwiseBlock(WIDTH, 2, 0.0, 12).eval()
    x, days = torch.randn(1, 6, WIDTH), torch.tensor([[3, 3, 4, 9, 100, 700]])
    with torch.no_grad():
        found = block(x, days, Padded(torch.tensor([6])))[0]
        gates, values, queries, keys = torch.nn.functional.silu(block.inputs(block.norm(x[0]))).chunk(4, -1)
        for i in range(6):
            attended = torch.zeros(2, WIDTH // 2)
            for j in range(i + 1):
                ago = int(days[0, i] - days[0, j])
                bucket = sum(ago >= bound for bound in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
                for head in range(2):
                    part = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
                    score = queries[i, part] @ keys[j, part] + block.step_bias.weight[i - j, head] + block.day_bias.weight[bucket, head]
                    attended[head] += torch.nn.functional.silu(score) / 12 * values[j, part]
            wanted = x[0, i] + block.output(block.norm_attended(attended.flatten()) * gates[i])
            torch.testing.assert_close(found[i], wanted, atol=1e-5, rtol=1e-5)


def test_transformer_xl_equals_the_loop_over_segments_of_the_paper() -> None:
    torch.manual_seed(3)
    segment = 3
    blocks = [RelativeBlock(WIDTH, 2, 0.0, segment, 4).eval() for _ in range(2)]
    for block in blocks:
        torch.nn.init.normal_(block.content_bias)
        torch.nn.init.normal_(block.distance_bias)
    x = torch.randn(1, 8, WIDTH)
    with torch.no_grad():
        found = x
        for block in blocks:
            found = block(found, Padded(torch.tensor([8])))
        memories: list[torch.Tensor] = [torch.zeros(0, WIDTH) for _ in blocks]
        out = []
        for start in range(0, 8, segment):
            hidden = x[0, start : start + segment]
            for number, block in enumerate(blocks):
                memory, memories[number] = memories[number], hidden
                hidden = _one_segment(block, hidden, memory)
            out.append(hidden)
    torch.testing.assert_close(found[0], torch.cat(out), atol=1e-5, rtol=1e-5)


def _one_segment(block: RelativeBlock, hidden: Tensor, memory: Tensor) -> Tensor:
    """Equation of Transformer-XL's section 3.3 for one segment, score by score."""
    context = torch.cat([memory, hidden])
    queries = block.queries(block.norm_1(hidden))
    keys, values = block.keys_values(block.norm_1(context)).chunk(2, -1)
    vectors = block.distances(sinusoids(2 * block.segment, WIDTH))
    attended = torch.zeros_like(hidden)
    for i in range(len(hidden)):
        here = len(memory) + i
        for head in range(2):
            part = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
            u, v = block.content_bias[head], block.distance_bias[head]
            scores = torch.stack([(queries[i, part] + u) @ keys[j, part] + (queries[i, part] + v) @ vectors[here - j, part] for j in range(here + 1)])
            attended[i, part] = torch.softmax(scores / (WIDTH / 2) ** 0.5, 0) @ values[: here + 1, part]
    x = hidden + block.output(attended)
    return x + block.down(torch.nn.functional.gelu(block.up(block.norm_2(x))))


def test_no_gradient_flows_into_the_memory_of_transformer_xl() -> None:
    torch.manual_seed(4)
    block = RelativeBlock(WIDTH, 2, 0.0, 3, 4)
    x = torch.randn(1, 6, WIDTH, requires_grad=True)
    block(x, Padded(torch.tensor([6])))[0, 5].sum().backward()
    assert x.grad is not None
    assert (x.grad[0, :3] == 0).all()
    assert (x.grad[0, 3:] != 0).any()


@torch.no_grad()
def test_an_event_two_segments_back_reaches_the_last_state_of_transformer_xl_through_the_memory_of_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    one, two = (
        build_encoder("transformer_xl", width=WIDTH, num_blocks=number, num_heads=2, dropout=0.0, max_history=6).eval() for number in (1, 2)
    )  # segments of three events
    steps = torch.arange(9)[None]
    x, other_vector = torch.randn(1, 9, WIDTH), torch.randn(WIDTH)

    def moved(encoder: torch.nn.Module, event: int) -> float:
        changed = x.clone()
        changed[0, event] = other_vector
        before, after = (encoder(vectors, steps, steps, Padded(torch.tensor([9])))[0, 8] for vectors in (x, changed))
        return (after - before).abs().max().item()

    assert moved(one, event=4) > 1e-3
    assert moved(one, event=1) == 0
    assert moved(two, event=1) > 1e-3
    attend = RelativeBlock._attend
    monkeypatch.setattr(
        RelativeBlock,
        "_attend",
        lambda self, queries, keys, values, *memory_and_mask: attend(
            self, queries, keys, values, *(torch.zeros_like(part) for part in memory_and_mask[:2]), memory_and_mask[2]
        ),
    )
    assert [moved(two, event) for event in range(6)] == [0] * 6  # with the memory emptied nothing before the segment counts
    assert moved(two, event=6) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_the_encoder_graph_equals_torch_for_any_batch_and_length(kind: str, tmp_path: Path) -> None:
    model, (items, days, types) = taste(kind), histories()
    export_encoder(model, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for rows in (slice(0, 5), slice(3, 4), slice(0, 2)):
        lengths = torch.tensor([len(x) for x in items[rows]])
        lengths[0] = 0 if rows.stop == 2 else lengths[0]
        inputs = {
            "items": padded(items[rows]),
            "event_days": padded(days[rows]),
            "event_types": padded(types[rows]),
            "lengths": lengths,
            "request_day": torch.full((len(lengths),), 18_450),
            "lead_days": torch.full((len(lengths),), 28.0),
        }
        with torch.no_grad():
            wanted = model(**inputs).numpy()
        np.testing.assert_allclose(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0], wanted, atol=1e-5)


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_of_packed_histories_is_that_of_each_alone_in_either_precision(is_causal: bool) -> None:
    lengths = [3, 7, 1, 7, 20, *[38, 36] * 20, 90]  # many alike and a long one: attended to in two ways in bf16
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    queries, keys, values = (torch.randn(int(offsets[-1]), 2, 4) for _ in range(3))
    alone = [
        torch.nn.functional.scaled_dot_product_attention(*(x[start:stop].transpose(0, 1)[None] for x in (queries, keys, values)), is_causal=is_causal)[
            0
        ].transpose(0, 1)
        for start, stop in itertools.pairwise(offsets.tolist())
    ]
    packed = Packed(offsets)
    torch.testing.assert_close(packed.attend(torch.stack([queries, keys, values], 1), is_causal=is_causal), torch.cat(alone))
    with torch.autocast("cpu", torch.bfloat16):
        half = packed.attend(torch.stack([queries, keys, values], 1).bfloat16(), is_causal=is_causal)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), torch.cat(alone), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_the_inner_network_of_a_block_is_as_wide_as_asked(kind: str) -> None:
    def parameters(feed_forward: int) -> int:
        config = EncoderConfig(kind=kind, width=WIDTH, num_blocks=2, num_heads=2, max_history=12, feed_forward=feed_forward)  # type: ignore[arg-type]
        encoder = build_taste(config, torch.zeros(9, 0, dtype=torch.long), num_items=9, num_event_types=1).encoder
        return sum(parameter.numel() for parameter in encoder.parameters())

    of_a_unit = {"gpt": 2 * WIDTH + 1, "bert": 2 * WIDTH + 1, "transformer_xl": 2 * WIDTH + 1, "ligr": 3 * WIDTH + 2}.get(kind, 0)
    assert parameters(4) - parameters(1) == 2 * 3 * WIDTH * of_a_unit
