"""`training.start=counts`: a model that begins as a table of neighbours."""

import math

import pytest
import torch

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import algo, dataloader, start
from mdlm_mcd.minihost import main as minihost

SIZE = 12  # the last is the mask


def chain(count, length, generator):
    """Draw rows of a Markov chain over SIZE - 1 tokens, and return its table, too."""
    p = torch.rand(SIZE - 1, SIZE - 1, generator=generator, dtype=torch.float64) ** 6
    p /= p.sum(1, keepdim=True)
    rows = torch.randint(SIZE - 1, (count, 1), generator=generator)
    for _ in range(length - 1):
        rows = torch.cat((rows, torch.multinomial(p[rows[:, -1]], 1, generator=generator)), 1)
    return rows, p


WIDE = ("model.hidden_size=40", "model.n_heads=2")


@pytest.fixture
def started(compose):
    """Return a DiT begun out of counts of a chain, its rows and table."""

    def build(name):
        rows, p = chain(4000, 16, torch.Generator().manual_seed(0))
        backbone = algo.trainer_base.backbone(compose(f"algo={name}", *WIDE), SIZE).eval()
        start.from_counts(backbone, rows, SIZE - 1)
        return backbone, rows, p

    return build


def test_a_masked_model_begins_as_the_law_of_a_token_between_its_neighbours(started):
    backbone, rows, p = started("mdlm")
    x = rows[:512].clone()
    x[:, 7] = SIZE - 1
    with torch.no_grad():
        log_p = backbone(x, torch.zeros(512))[:, 7, :-1].double().log_softmax(-1)
    before, here, after = rows[:512, 6], rows[:512, 7], rows[:512, 8]
    exact = (p[before] * p[:, after].T).log()
    exact = exact - exact.logsumexp(-1, keepdim=True)
    cost, least = (-t.gather(-1, here[:, None]).mean() for t in (log_p, exact))
    assert least < cost < least + 0.2 < math.log(SIZE - 1) - 1
    x[:, 6] = x[:, 8] = SIZE - 1  # without neighbours: how often each is
    with torch.no_grad():
        alone = backbone(x, torch.zeros(512))[:, 7, :-1].double().softmax(-1)
    often = torch.bincount(rows.flatten(), minlength=SIZE - 1) / rows.numel()
    assert (alone - often).abs().mean() < 0.02  # heads see a little of what is farther away


def test_a_left_to_right_model_begins_as_the_table(started):
    backbone, rows, p = started("ar")
    with torch.no_grad():
        found = backbone(rows[:64], None)[..., :-1].double().softmax(-1)
    torch.testing.assert_close(found, p[rows[:64]], atol=0.06, rtol=0)


@pytest.mark.parametrize("name", ["mdlm", "ar"])
def test_a_run_begins_there_its_average_too(compose, name):
    given = (f"algo={name}", *WIDE, "training.start=counts")
    config = compose(*given)
    tokenizer = dataloader.get_tokenizer(config)
    model = minihost.model_class(config)(config, tokenizer)
    rows = dataloader.get_dataset(config, tokenizer, "train")
    start.begin(model, rows)
    assert all(map(torch.equal, model.ema.shadow_params, model._get_parameters()))
    short = ("trainer.max_steps=2", "trainer.val_check_interval=2")
    assert minihost.run(compose(*given, *short))["val/nll"] < math.log(300) - 1


def test_refusals(compose):
    for override, words in (
        ("algo=duo_base", "algo=mdlm and algo=ar"),
        ("model.n_heads=1", "n_heads of at least 2"),
    ):
        with pytest.raises(ConfigError, match=f"training.start=counts .*{words}.*leave it at null"):
            minihost.run(compose(override, "training.start=counts"))
