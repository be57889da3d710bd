"""Virtual tokens (prompt and prefix tuning): the oracle is each row alone, with its virtual tokens written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from thinkling.core.errors import ConfigError
from thinkling.data.batch import pack
from thinkling.data.prefixes import share
from thinkling.engine.generate import Engine, Request, Sampling
from thinkling.engine.gradient import accumulate, mean_loss
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.settings import TrainerConfig
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.attend import PackedAttend
from thinkling.tuning import prefix, prompt

N = 5
CASES = {
    "prompt": (prompt, prompt.Config(num_virtual_tokens=N)),
    "prefix": (prefix, prefix.Config(num_virtual_tokens=N, prefix_projection=False)),
    "projected prefix": (prefix, prefix.Config(num_virtual_tokens=N, encoder_hidden_size=7)),
}


@pytest.fixture(params=CASES)
def tuned(request, tiny_model):
    """A tuned model some way from its start."""
    entry, config = CASES[request.param]
    model = copy.deepcopy(tiny_model)
    entry.apply(model, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def rows(n=6):
    """Rows of which some begin alike."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randint(0, 256, (12,), generator=generator).tolist()
    own = [torch.randint(0, 256, (3 + 4 * i,), generator=generator).tolist() for i in range(n)]
    tokens = [(common if i % 2 else []) + row for i, row in enumerate(own)]
    weights = [[0.0] * (len(row) - 2) + [1.0, 2.0] for row in tokens]
    return tokens, weights


def written_out(model, row):
    """(n, D) hidden states of one row by plain attention over virtual tokens and row, in a loop of our own."""
    tokens, n, virtual = torch.tensor(row), len(row), model.virtual(model)

    def attend(layer, q, k, v):
        keys, values = (torch.cat([a, b]).transpose(0, 1) for a, b in zip(virtual[layer], (k, v), strict=True))
        group = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)  # (H, N + n, E)
        sees = torch.ones(n, N + n, dtype=torch.bool).tril(N)
        return F.scaled_dot_product_attention(q.transpose(0, 1), keys, values, attn_mask=sees).transpose(0, 1)

    x = model.model.embed_tokens(tokens)
    return model.model.norm(model.through(x, torch.arange(N, N + n), attend))


def oracle_loss(model, tokens, weights):
    total, count = 0.0, 0.0
    for row, weight in zip(tokens, weights, strict=True):
        log_p = torch.log_softmax(model.logits(written_out(model, row)), -1)[:-1]
        nll = -log_p.gather(1, torch.tensor(row[1:]).unsqueeze(1)).squeeze(1)
        total = total + (nll * torch.tensor(weight[1:])).sum()
        count += sum(weight[1:])
    return total / count


def test_prompt_tuning_is_a_row_that_begins_with_the_trained_embeddings(tiny_model):
    """The oracle of the oracle: the virtual tokens get the embeddings of real ones, which the base model reads."""
    model = copy.deepcopy(tiny_model)
    prompt.apply(model, prompt.Config(num_virtual_tokens=N))
    real = torch.tensor([7, 3, 99, 1, 250])
    with torch.no_grad():
        model.virtual.prompt_embeddings.copy_(model.model.embed_tokens.weight[real])
    row = torch.tensor([5, 6, 7, 8])
    alone = PackedAttend(torch.tensor([0, 4]))
    whole = tiny_model(torch.cat([real, row]), torch.arange(9), PackedAttend(torch.tensor([0, 9]), way="sdpa"))
    torch.testing.assert_close(model(row, torch.arange(4), alone), whole[5:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["products", "sdpa"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_packed_stream_sees_what_each_row_alone_would_see(tuned, way, shared):
    tokens, weights = rows()
    batch = pack(tokens, weights)
    batch = share(batch) if shared else batch
    assert bool(batch.prefixes) == shared
    hidden = tuned(batch.tokens, batch.positions, PackedAttend(batch.starts, batch.prefixes, way=way))
    last = torch.tensor([hidden_at(batch, row) for row in tokens])
    wanted = torch.stack([written_out(tuned, row)[-1] for row in tokens])
    torch.testing.assert_close(hidden[last], wanted, rtol=1e-4, atol=1e-5)


def hidden_at(batch, row):
    """The place of a row's last token in the stream: no two rows end alike."""
    return next(e - 1 for e in batch.starts[1:].tolist() if batch.tokens[e - 3 : e].tolist() == row[-3:])


@pytest.mark.parametrize("micro_batch_tokens", [30, 10_000])
def test_the_loop_gives_the_gradient_of_rows_with_their_virtual_tokens_written_out(tuned, micro_batch_tokens):
    tokens, weights = rows()
    own = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    loss = oracle_loss(tuned, tokens, weights)
    wanted = torch.autograd.grad(loss, own)
    optimizer = MasterAdamW(tuned, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0)
    config = TrainerConfig(micro_batch_tokens=micro_batch_tokens)
    means, _ = accumulate(tuned, pack(tokens, weights), CROSS_ENTROPY, optimizer, config)
    optimizer.close()
    assert means["nll"] == pytest.approx(loss.item(), rel=1e-5)
    for found, right in zip(optimizer.gradients, wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-6)
    assert mean_loss(tuned, [pack(tokens, weights)], config) == pytest.approx(loss.item(), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_decoding_against_a_cache_equals_full_forwards_behind_the_virtual_tokens(tuned, tokenizer, slots):
    tokens, _ = rows()
    requests = [Request(tuple(row), Sampling(max_new_tokens=3 + 5 * i)) for i, row in enumerate(tokens)]
    completions = Engine(tuned, tokenizer, slots=slots).generate(requests)
    for row, request, completion in zip(tokens, requests, completions, strict=True):
        whole = list(row)
        for _ in range(request.sampling.max_new_tokens):
            whole.append(int(tuned.logits(written_out(tuned, whole)[-1:]).argmax()))
            if whole[-1] in tokenizer.stop_ids:
                break
        assert completion.tokens == tuple(whole[len(row) :])


def test_virtual_tokens_take_room_in_the_context(tuned, tiny_model, tokenizer):
    room = tiny_model.config.max_positions - N
    with pytest.raises(ConfigError, match=f"context of {room}"):
        Engine(tuned, tokenizer).generate([Request((1,) * room)])


@pytest.mark.parametrize("name", CASES)
def test_more_virtual_tokens_than_the_context_holds_are_refused(name, tiny_model):
    entry, config = CASES[name]
    with pytest.raises(ConfigError, match="leave no room"):
        entry.apply(tiny_model, config.model_copy(update={"num_virtual_tokens": tiny_model.config.max_positions}))


def test_what_the_projection_made_is_the_same_function_without_it(tiny_model):
    entry, config = CASES["projected prefix"]
    model, plain = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    entry.apply(model, config)
    with torch.no_grad():
        model.virtual.last.normal_(generator=torch.Generator().manual_seed(0))
    settings, tensors = entry.for_inference(model, config)
    entry.apply(plain, settings)
    plain.load_state_dict(tensors, strict=False)
    row = torch.arange(9)
    wanted = model(row, row, PackedAttend(torch.tensor([0, 9])))
    assert torch.equal(plain(row, row, PackedAttend(torch.tensor([0, 9]))), wanted)
    assert sum(p.numel() for p in plain.parameters() if p.requires_grad) == tensors["virtual.prompt_embeddings"].numel()
