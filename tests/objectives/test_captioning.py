"""CaptioningTerm: a mean over real tokens, a decoder that cannot look ahead, and another one in its place."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, pairs_of, share_of, unit
from vlp.objectives.captioning import CaptionDecoder, CaptioningTerm

VARIANTS = [{"vocab_size": 11, "context_length": 4, "width": 8, "layers": 2, "heads": 2}]
ONE_TOWER = [{}, *VARIANTS]

TOKENS = torch.tensor([[1, 5, 3, 2], [1, 4, 2, 0], [1, 2, 0, 0]])
LENGTHS = torch.tensor([4, 3, 2])


def built() -> CaptioningTerm:
    torch.manual_seed(0)
    term = CaptioningTerm(**VARIANTS[0])
    term.create(DIM)
    return term.double()


def value(term, tokens=TOKENS, lengths=LENGTHS):
    pairs = pairs_of(unit(3, DIM, 1), unit(3, DIM, 2), tokens=tokens, lengths=lengths)
    return share_of(term, pairs)


@torch.no_grad()
def test_is_the_mean_of_minus_log_p_over_all_real_tokens():
    """Each token by a decoder call of its own, which sees nothing after it."""
    term, total = built(), 0.0
    for row, image in enumerate(unit(3, DIM, 1)):
        for place in range(LENGTHS[row]):
            seen = TOKENS[None, row, : place + 1]
            logits = term.decoder(image[None], seen)[0, place].tolist()
            log_sum = math.log(sum(math.exp(logit) for logit in logits))
            total += log_sum - logits[TOKENS[row, place]]
    assert value(term).item() == pytest.approx(total / 9, rel=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("place", range(4))
def test_a_token_changes_no_logits_up_to_its_own(place):
    decoder, image = built().decoder, unit(3, DIM, 1)
    changed = TOKENS.clone()
    changed[:, place] = (changed[:, place] + 3) % 11
    before, after = decoder(image, TOKENS), decoder(image, changed)
    assert torch.equal(before[:, : place + 1], after[:, : place + 1])
    assert place == 3 or not torch.equal(before[:, place + 1], after[:, place + 1])


@torch.no_grad()
def test_logits_depend_on_the_image():
    decoder = built().decoder
    assert not torch.equal(decoder(unit(3, DIM, 1), TOKENS), decoder(unit(3, DIM, 2), TOKENS))


def test_padding_is_ignored():
    junk = TOKENS.where(torch.arange(4) < LENGTHS[:, None], 7)
    assert value(built(), junk).item() == value(built()).item()


def test_many_captions_are_decoded_in_pieces(monkeypatch):
    whole = built()
    value(whole).backward()
    monkeypatch.setattr("vlp.objectives.captioning.PIECE", 2)
    pieces = built()
    value(pieces).backward()
    for ours, theirs in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_an_untrained_decoder_guesses():
    torch.manual_seed(0)
    term = CaptioningTerm(vocab_size=1000, context_length=4, width=32)
    term.create(DIM)
    assert value(term).item() == pytest.approx(math.log(1000), rel=0.05)


def test_another_decoder_may_take_its_place():
    """One that always bets on token 2, by a margin of 3."""

    class Bet(torch.nn.Module):
        def forward(self, image, tokens):
            return 3.0 * torch.nn.functional.one_hot(torch.full_like(tokens, 2), 11).double()

    term = built()
    term.decoder = Bet()
    right = math.log(math.exp(3) + 10) - 3
    assert value(term).item() == pytest.approx((3 * right + 6 * (right + 3)) / 9)


def test_longer_captions_are_refused():
    decoder = CaptionDecoder(DIM, 11, 3, 8, 1, 2)
    with pytest.raises(ValueError, match="set context_length"):
        decoder(unit(3, DIM, 1, torch.float32), TOKENS)
