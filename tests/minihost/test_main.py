"""The host from its own command line: modes, losses, samplers, refusals."""

import json
import math
from types import SimpleNamespace

import hosted
import pytest
import torch
from enumeration import MASK, VOCAB, alpha, assert_law, exact_law, table
from texts import tiny_gpt2

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.losses import subs
from mdlm_mcd.minihost import algo, dataloader, metrics
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.minihost.trainer_base import Loss


@pytest.fixture
def model(compose):
    def build(cls=algo.MDLM, *overrides):
        config = compose(*overrides)
        torch.manual_seed(0)
        built = cls(config, dataloader.get_tokenizer(config)).eval()
        for p in built.backbone.parameters():
            torch.nn.init.normal_(p, std=0.2)
        return built

    return build


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_are_compiled_on_request_and_keep_their_names(model, compiled):
    net = model(algo.MDLM, f"algo.compile={compiled}")  # `compile` itself works when first called
    assert [b._compiled_call_impl is not None for b in net.backbone.blocks] == [compiled] * 2
    assert not any("_orig_mod" in name for name in net.state_dict())


@pytest.mark.parametrize("loss_type", ["elbo", "low_var"])
def test_the_gathered_training_loss_is_the_dense_one(model, loss_type, monkeypatch):
    net = model(algo.MDLM, f"algo.loss_type={loss_type}").double()
    x0, valid = torch.randint(0, 250, (4, 16)), torch.ones(4, 16)
    valid[1, 9:] = 0
    t = torch.linspace(0.2, 0.9, 4).double()
    monkeypatch.setattr(net, "_sample_t", lambda *_: t)
    torch.manual_seed(1)
    loss = net._loss(x0, None, valid, 0, train_mode=True).loss
    torch.manual_seed(1)
    xt = net.q_xt(x0, 1 - (1 - 1e-3) * t[:, None])
    logits = net.backbone(xt, torch.zeros(4)).double()
    log_p = subs(logits, xt, net.mask_index).gather(-1, x0[..., None]).squeeze(-1)
    weight = 1 / t[:, None] if loss_type == "elbo" else 1
    dense = -(log_p * weight * valid).sum() / valid.sum()
    torch.testing.assert_close(loss, dense)
    grads = [torch.autograd.grad(x, list(net.backbone.parameters())) for x in (loss, dense)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


def test_the_logged_loss_is_that_of_the_whole_step(model, monkeypatch):
    """The last micro-batch alone, which Lightning logs, has the latest times."""
    net, logged = model(algo.MDLM), []
    monkeypatch.setattr(net, "_trainer", SimpleNamespace(accumulate_grad_batches=2))
    monkeypatch.setattr(net, "log", lambda name, value, **how: logged.append(float(value)))
    # The first as of a run that was resumed within a step.
    for micro, (nats, tokens) in enumerate([(5, 1), (4, 2), (5, 1), (6, 2), (6, 1)], start=1):
        loss = Loss(*map(torch.tensor, (nats / tokens, float(nats), tokens)))
        monkeypatch.setattr(net, "_of_batch", lambda *args, loss=loss, **how: loss)
        assert net.training_step(None, micro) is loss.loss
    assert logged == [5, 2, 3, 3, 4]


@pytest.mark.parametrize("predictor", ["ancestral", "ancestral_cache"])
def test_the_sampler_against_every_path_of_the_reverse_chain(model, predictor):
    net = model(algo.MDLM, "model.length=3", f"sampling.predictor={predictor}")
    net.vocab_size, net.mask_index, logits = VOCAB, MASK, table()
    net.forward = lambda z, *_: subs(logits[tuple(z.T)], z, MASK)
    drawn = net.generate_samples(10_000, num_steps=2)
    # Two steps down to eps = 1e-5, and one that opens the rest.
    levels = [*map(alpha, (1.0, 0.500005, 1e-5)), 1.0]
    assert_law(drawn, exact_law(logits, levels))


@pytest.mark.parametrize("noise, removal", [("cosine", "ancestral"), ("log-linear", "greedy")])
def test_samples_have_no_masks(model, noise, removal):
    how = (f"noise={noise}", f"sampling.noise_removal={removal}", "sampling.p_nucleus=0.9")
    net = model(algo.MDLM, "sampling.predictor=ancestral_cache", *how)
    x = net.generate_samples(5, num_steps=4)
    assert x.shape == (5, 16) and (x != net.mask_index).all()


def test_ar_is_a_law_of_the_next_token_and_samples_follow_it(model):
    net = model(algo.AR, "algo=ar")
    x = net.generate_samples(400)
    assert x.shape == (400, 16) and (x[:, 0] == net.tokenizer.bos_token_id).all()
    log_p, own = net(x, None), net.nll(x[:, :-1], None, x[:, 1:])
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(400, 16))
    torch.testing.assert_close(own, -log_p[:, :-1].gather(-1, x[:, 1:, None])[..., 0])
    # Its own samples are likelier under it than random tokens are.
    random = torch.randint_like(x, 0, 250)
    assert own.mean() < net.nll(random[:, :-1], None, random[:, 1:]).mean()


@pytest.mark.parametrize("name, most", [("mdlm", 4.5), ("ar", 4.5), ("duo_base", 5.0)])
def test_training_learns_and_its_checkpoint_is_evaluated_and_sampled(compose, tmp_path, name, most):
    how = ("optim.lr=1e-2", "trainer.val_check_interval=30", "training.ema=0.9")
    trained = minihost.run(compose(f"algo={name}", "trainer.max_steps=60", *how))
    assert trained["val/nll"] < most < math.log(300)  # knowing nothing: 5.7
    path = tmp_path / "checkpoints" / "last.ckpt"
    torch.load(path, weights_only=True)  # plain containers: no pickled classes
    common = (f"algo={name}", f"eval.checkpoint_path={path}")
    evaluated = minihost.run(compose(*common, "mode=ppl_eval"))
    # AR's likelihood is exact; the NELBO of two small batches is a noisy estimate.
    noise = {"ar": 1e-5, "mdlm": 0.7, "duo_base": 1.5}[name]
    assert evaluated["val/nll"] == pytest.approx(trained["val/nll"], abs=noise)
    few = ("sampling.steps=4", "sampling.num_sample_batches=1", "sampling.p_nucleus=0.9")
    where = f"eval.generated_samples_path={tmp_path}/samples.json"
    minihost.run(compose(*common, "mode=sample_eval", *few, where))
    content = json.loads((tmp_path / "samples.json").read_text())
    assert content["sampling_dtype"] == "float64" and content["entropy"] > 0
    assert len(content["generated_seqs"]) == 8
    model, tokenizer = hosted.open_model(path)
    # A uniform-state model has the tokenizer's vocabulary, the others a mask behind it.
    assert type(model) is minihost.MODELS[name]
    assert model.vocab_size == len(tokenizer) + (name != "duo_base")


def test_generative_perplexity_under_a_transformers_model(compose, tmp_path):
    """A causal LM of `transformers`, made here; no partial batch is dropped."""
    tokenizer = dataloader.get_tokenizer(compose())
    judge = tiny_gpt2(tmp_path / "judge", len(tokenizer), context=64)
    tokenizer.save_pretrained(tmp_path / "judge")
    measured = metrics.Metrics(str(tmp_path / "judge"), eval_ppl_batch_size=2)
    texts = ["the cat sat", "a<|eos|>dog<|eos|>saw one", "by its red house at dawn"]
    measured.record_generative_perplexity(texts, 9)
    nats = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:9]
        with torch.no_grad():
            log_p = judge(torch.tensor([ids])).logits.log_softmax(-1)[0]
        # Of a sample's EOS tokens only the first counts.
        ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_token_id]
        nats += [-float(log_p[i - 1, ids[i]]) for i in range(1, len(ids)) if i not in ends[1:]]
    expected = math.exp(sum(nats) / len(nats))
    assert float(measured.gen_ppl.compute()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed", "32-true"])
def test_gradients_are_clipped_under_every_precision(compose, precision):
    """Which the questions advise; Lightning clips no fused optimizer's under mixed ones."""
    given = ("trainer.gradient_clip_val=1.0", "trainer.max_steps=1")
    minihost.run(compose(f"trainer.precision={precision}", *given))


def test_an_interrupted_run_overwrites_nothing(compose, tmp_path, monkeypatch):
    """Lightning 2.2 returns from it, in a validation with the average in the model."""

    def interrupted(*args, **kwargs):
        trainer = make(*args, **kwargs)
        trainer.fit = lambda *a, **k: setattr(trainer.state, "status", "interrupted")
        trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = 1
        return trainer

    make = minihost.make_trainer
    monkeypatch.setattr(minihost, "make_trainer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        minihost.run(compose())
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("algo", ["mdlm", "mcd"])
def test_a_run_begun_anew_in_a_used_folder_is_the_one_to_go_on_with(compose, tmp_path, algo):
    """Its files are not put beside those of the run before, as last-v1.ckpt."""
    every = "callbacks.checkpoint_every_n_steps."
    given = [f"{every}every_n_train_steps=1", "trainer.val_check_interval=2"]
    minihost.run(compose(*given, "trainer.max_steps=4"))
    given += [f"algo={algo}", "checkpointing.resume_from_ckpt=false", "seed=2"]
    if algo == "mcd":
        given += ["algo.init_from=scratch", "algo.rounds=2", "algo.steps_per_round=1"]
        # As the hosts' own, which have Lightning's default.
        given += [f"{every}enable_version_counter=true"]
    minihost.run(compose(*given, "trainer.max_steps=2"))
    folder = tmp_path / "checkpoints"
    assert not list(folder.glob("*-v1.ckpt"))
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["hyper_parameters"]["config"]["seed"]) == (2, 2)


def test_a_run_goes_on_with_other_micro_batches(compose, tmp_path, monkeypatch):
    """Each step has the rows that it would have had."""

    def run(batch_size, steps, folder):
        minihost.run(
            compose(
                "loader.global_batch_size=8",
                f"loader.batch_size={batch_size}",
                f"trainer.max_steps={steps}",
                f"checkpointing.save_dir={tmp_path / folder}",
            )
        )

    def step(self, batch, index):
        rows.setdefault((folder, self.global_step), []).extend(batch["input_ids"].tolist())
        return real(self, batch, index)

    rows, real = {}, algo.MDLM.training_step
    monkeypatch.setattr(algo.MDLM, "training_step", step)
    for folder, before, after in (("same", 8, 8), ("split", 8, 2), ("joined", 2, 8)):
        run(before, 3, folder)
        run(after, 6, folder)
        assert [rows[folder, n] for n in range(6)] == [rows["same", n] for n in range(6)]


def test_a_tokenizer_whose_ids_are_other_tokens(compose, runs, tmp_path):
    """Of as many tokens, trained on other text; checkpoints of older releases do not tell."""
    texts = (f"Some quite different sentence, number {i} of its own kind." for i in range(400))
    (tmp_path / "other.txt").write_text("\n\n\n".join(texts))
    small = ("model.hidden_size=16", "model.n_blocks=1", "trainer.max_steps=1")
    other = (*small, f"data.files=[{tmp_path / 'other.txt'}]")
    path, old = runs["mdlm"], tmp_path / "old.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["config"]["data"].pop("tokenizer_sha256")
    torch.save(content, old)
    for key, *how in (
        ("eval.checkpoint_path", "mode=ppl_eval"),
        ("eval.checkpoint_path", "mode=sample_eval", f"eval.generated_samples_path={tmp_path}/s"),
        ("training.finetune_path",),
        ("algo.teacher_path", "algo=mcd", "algo.rounds=1", "algo.steps_per_round=1"),
    ):
        words = f"^{key}=.*last.ckpt learned the tokens of .*=bpe has .* name the text of that run"
        with pytest.raises(ConfigError, match=words):
            minihost.run(compose(*how, f"{key}={path}", *other))
        short = ("sampling.steps=1", "sampling.num_sample_batches=1")
        for opened, given in ((path, small), (old, other)):
            folder = f"checkpointing.save_dir={tmp_path / opened.stem / key}"
            minihost.run(compose(*how, f"{key}={opened}", *given, folder, *short))


def test_checkpoints_that_do_not_fit_are_refused_by_name(compose, tmp_path):
    minihost.run(compose("trainer.max_steps=1", "training.ema=0", "loader.batch_size=4"))
    path = f"eval.checkpoint_path={tmp_path}/checkpoints/last.ckpt"
    for override, words in (
        ("model.hidden_size=16", f"{path} does not fit"),
        ("training.ema=0.9", "holds no EMA: set training.ema=0"),
    ):
        with pytest.raises(ConfigError, match=words):
            minihost.run(compose("mode=ppl_eval", path, "training.ema=0", override))
