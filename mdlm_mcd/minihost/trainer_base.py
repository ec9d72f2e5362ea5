"""Train, evaluate and sample the host's models: what they share."""

import itertools
import math
from dataclasses import dataclass

import hydra.utils
import lightning as L
import omegaconf
import torch

from ..checkpoints import identity
from ..checkpoints.formats import unwrap
from ..errors import ConfigError, require_one_of
from ..models import context, ema
from ..models.compiling import compile_blocks
from ..models.noise import NOISES
from ..sampling.chain import categorical, nucleus
from . import metrics
from .backbone import backbone

LIGHTNING, TORCH = (
    tuple(int(part) for part in version.split(".")[:2])
    for version in (L.__version__, torch.__version__)
)


@dataclass
class Loss:
    """The loss of a batch: `loss` is `nlls / num_tokens`, in nats per token."""

    loss: torch.Tensor
    nlls: torch.Tensor
    num_tokens: torch.Tensor


def double(x):
    """Return x in float64, on the CPU where its device has none (Apple's GPUs)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


class TrainerBase(L.LightningModule):
    """A model, its EMA, its optimizer and its metrics.

    Subclasses define `_process_model_input` (x0, valid) -> (inputs, targets, valid),
    `_process_sigma`, `_process_model_output` (logits -> log_x_theta), `nll` (nats per
    token, (batch, length)) and `generate_samples`. `given` in losses: (batch, length) bool,
    the tokens that are context, which `valid_tokens` leaves out; None for none.
    """

    def __init__(self, config, tokenizer, vocab_size):
        super().__init__()
        # Plain containers only: the file then opens with `weights_only=True`.
        self.save_hyperparameters(
            {"config": omegaconf.OmegaConf.to_container(config, resolve=True)}
        )
        self.config = config
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.ignore_bos = config.algo.get("ignore_bos", False)
        self.loss_type = config.algo.get("loss_type", "elbo")
        self.sampler = config.sampling.predictor
        self.antithetic_sampling = config.training.antithetic_sampling
        self.parameterization = config.algo.parameterization
        self.num_tokens = config.model.length
        self.p_nucleus = config.sampling.p_nucleus
        self.sampling_eps = config.training.sampling_eps
        self.time_conditioning = config.algo.time_conditioning

        self.backbone = backbone(config, self.vocab_size)
        self.compiled = config.algo.get("compile", False)  # configs of 0.1.0 have no such key
        if self.compiled:
            compile_blocks(self.backbone)
        require_one_of(NOISES, "noise.type", config.noise.type)
        self.noise = NOISES[config.noise.type](config.noise.eps)
        self._step = ()  # sums over the micro-batches of the step in progress
        self.ema = None
        if config.training.ema:
            self.ema = ema.ExponentialMovingAverage(
                self._get_parameters(), decay=config.training.ema
            )
        self.metrics = metrics.Metrics(
            config.eval.gen_ppl_eval_model_name_or_path, config.eval.perplexity_batch_size
        )

    # Parameters and their average ------------------------------------------

    def _get_parameters(self):
        return self.backbone.parameters()

    def _eval_mode(self):
        if self.ema:
            self.ema.store(self._get_parameters())
            self.ema.copy_to(self._get_parameters())
        self.backbone.eval()

    def _train_mode(self):
        if self.ema:
            self.ema.restore(self._get_parameters())
        self.backbone.train()

    def on_save_checkpoint(self, checkpoint):
        if self.ema:
            checkpoint["ema"] = self.ema.state_dict()
        if LIGHTNING < (2, 5):
            # Written at the end of a batch, before these releases count it: resumed,
            # they would take its index again and step after too few micro-batches.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts["completed"] = counts["processed"]

    def on_load_checkpoint(self, checkpoint):
        unwrap(checkpoint, self)
        trainer = self._trainer
        if trainer and trainer.state.fn == "fit" and "mdlm_mcd" not in checkpoint:  # of its own
            was = identity.config_of(checkpoint)["trainer"]["accumulate_grad_batches"]
            identity.resplit(checkpoint, was, trainer.accumulate_grad_batches)
        if self.ema:
            if "ema" not in checkpoint:
                raise ConfigError(
                    "The checkpoint holds no EMA: set training.ema=0 to use its raw weights."
                )
            self.ema.load_state_dict(checkpoint["ema"])
            self.ema.move_shadow_params_to_device(self.device)

    def on_train_start(self):
        self.metrics.to(self.device)
        if self.ema:
            self.ema.move_shadow_params_to_device(self.device)

    on_validation_start = on_train_start

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        if self.ema:
            self.ema.update(self._get_parameters())

    def configure_optimizers(self):
        optim = self.config.optim
        optimizer = torch.optim.AdamW(
            self._get_parameters(),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            # One pass over the weights in place of ten. Lightning does not clip the gradients
            # of a fused optimizer under mixed precision, and older torch has none on CPUs.
            fused="mixed" not in self.trainer.precision and TORCH >= (2, 4),
        )
        scheduler = hydra.utils.instantiate(self.config.lr_scheduler, optimizer=optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "trainer/lr"}]

    # The loss ---------------------------------------------------------------

    def forward(self, xt, sigma, labels=None):
        """Return log_x_theta, (batch, length, vocab), in float32 or better."""
        sigma = self._process_sigma(sigma)
        model_output = self.backbone(x=xt, sigma=sigma, class_cond=labels)
        wide = torch.promote_types(model_output.dtype, torch.float32)
        return self._process_model_output(model_output.to(wide), xt, sigma)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return context.marked(batch)

    def _of_batch(self, batch, *args, **kwargs):
        """Call `_loss` on a batch, whose given tokens cost nothing."""
        given, valid = context.of(batch), batch["attention_mask"]
        if given is not None:
            valid, kwargs["given"] = valid.masked_fill(given, 0), given
        return self._loss(batch["input_ids"], batch.get("labels"), valid, *args, **kwargs)

    def _loss(
        self, x0, labels, valid_tokens, current_accumulation_step=None, train_mode=False, given=None
    ):
        inputs, outputs, valid_tokens = self._process_model_input(x0, valid_tokens)
        nll = self.nll(inputs, labels, outputs, current_accumulation_step, given)
        nlls = (nll * valid_tokens).sum()
        num_tokens = valid_tokens.sum()
        return Loss(nlls / num_tokens, nlls, num_tokens)

    def training_step(self, batch, batch_idx):
        micro = batch_idx % self.trainer.accumulate_grad_batches
        losses = self._of_batch(batch, micro, train_mode=True)
        # Of the step so far: Lightning logs the last micro-batch, which has the latest times.
        now = losses.nlls.detach(), losses.num_tokens
        if micro and self._step:  # empty where a resumed run begins within a step
            now = [a + b for a, b in zip(self._step, now, strict=True)]
        self._step = now
        nlls, tokens = self._step
        self.log("trainer/loss", nlls / tokens, prog_bar=True, sync_dist=True)
        return losses.loss

    def on_validation_epoch_start(self):
        self.metrics.valid_nll.reset()
        self._eval_mode()

    def validation_step(self, batch, batch_idx):
        losses = self._of_batch(batch)
        self.metrics.valid_nll.update(losses.nlls, losses.num_tokens)
        return losses.loss

    def on_validation_epoch_end(self):
        nll = self.metrics.valid_nll.compute()
        for name, value in {"nll": nll, "bpd": nll / math.log(2), "ppl": nll.exp()}.items():
            self.log(f"val/{name}", value.float(), sync_dist=True)
        sanity = self.trainer.sanity_checking
        if self.config.eval.generate_samples and (
            self.config.eval.compute_perplexity_on_sanity or not sanity
        ):
            self._log_samples()
        self._train_mode()

    def _log_samples(self):
        """Log entropy, and perplexity if asked for, of freshly drawn samples."""
        self.metrics.gen_ppl.reset()
        self.metrics.sample_entropy.reset()
        for _ in range(self.config.sampling.num_sample_batches):
            samples = self.generate_samples(self.config.loader.eval_batch_size)
            self.metrics.record_entropy(samples)
            if self.config.eval.compute_generative_perplexity:
                self.metrics.record_generative_perplexity(
                    self.tokenizer.batch_decode(samples), self.num_tokens, device=self.device
                )
        self.log("val/sample_entropy", self.metrics.sample_entropy.compute().float())
        if self.config.eval.compute_generative_perplexity:
            self.log("val/gen_ppl", self.metrics.gen_ppl.compute().float())

    def restore_model_and_sample(self, num_steps, eps=1e-5):
        """Draw `loader.eval_batch_size` samples with the EMA weights."""
        self._eval_mode()
        samples = self.generate_samples(
            self.config.loader.eval_batch_size, num_steps=num_steps, eps=eps
        )
        self._train_mode()
        return samples


class Diffusion(TrainerBase):
    """Discrete diffusion in continuous time.

    Subclasses define `prior_sample`, tokens of pure noise, `nll_per_token` (the NELBO's
    integrand) and `_posterior_from_x0`, q(z_s | z_t) with x0: (batch, length, vocab)
    probabilities. ALLOWED: the values of some keys that they work with.
    """

    ALLOWED = {"algo.T": [0], "sampling.noise_removal": ["ancestral", "greedy", "none"]}

    def __init__(self, config, tokenizer, vocab_size):
        super().__init__(config, tokenizer, vocab_size)
        self._validate_configuration()

    def _validate_configuration(self):
        for key, allowed in self.ALLOWED.items():
            value = omegaconf.OmegaConf.select(self.config, key)
            value = self.sampler if key == "sampling.predictor" else value
            if value not in (None, *allowed):
                raise ConfigError(
                    f"{key}={value} does not work with this model: choose one of "
                    f"{', '.join(map(str, allowed))}."
                )

    def _process_model_input(self, x0, valid_tokens):
        return x0, None, valid_tokens

    def _process_sigma(self, sigma):
        """Flatten (batch, 1) to (batch,); zeros unless the model is time-conditioned."""
        sigma = sigma.mean(-1)
        return sigma if self.time_conditioning else torch.zeros_like(sigma)

    def _sigma_from_alphat(self, alpha_t):
        return -torch.log(alpha_t)

    def _sample_t(self, n, accum_step):
        """Draw times in (sampling_eps, 1], stratified over the global batch."""
        rows = n
        if accum_step is not None:
            trainer = self.trainer
            shares = trainer.world_size * trainer.accumulate_grad_batches
            rows = shares * max(n, self.config.loader.batch_size)
        t = torch.rand(rows, device=self.device)
        if self.antithetic_sampling:
            t = (t + torch.arange(rows, device=self.device)) / rows
        if accum_step is not None:
            share = trainer.global_rank * trainer.accumulate_grad_batches + accum_step
            t = t.chunk(shares)[share][:n]
        return self.sampling_eps + (1 - self.sampling_eps) * t

    def q_xt(self, x, alpha_t):
        """x: (batch, length), alpha_t: (batch, 1) -> x with some tokens of pure noise."""
        changed = torch.rand(x.shape, device=x.device) >= alpha_t
        if self.ignore_bos:
            changed[:, 0] = False
        return torch.where(changed, self.prior_sample(*x.shape), x)

    def _noised(self, x0, accum_step, given):
        """Draw t, and x_t by `q_xt`, where given tokens stay.

        Return x_t (batch, length), and alpha_t and its slope, both (batch, 1).
        """
        t = self._sample_t(x0.shape[0], accum_step)
        dalpha_t, alpha_t = (a[:, None] for a in self.noise(t))
        xt = self.q_xt(x0, alpha_t)
        return xt if given is None else torch.where(given, x0, xt), alpha_t, dalpha_t

    def nll(self, x0, labels, output_tokens, current_accumulation_step=None, given=None):
        xt, alpha_t, dalpha_t = self._noised(x0, current_accumulation_step, given)
        log_x_theta = self.forward(xt, self._sigma_from_alphat(alpha_t), labels)
        return self.nll_per_token(log_x_theta, xt, x0, alpha_t, dalpha_t)

    def _ancestral_update(self, x, t, labels, dt, p_x0=None, noise_removal_step=False):
        """Take one step t -> t - dt (or t -> 0); return (p_x0, x_s)."""
        alpha_t = self.noise(t)[1]
        alpha_s = torch.ones_like(t) if noise_removal_step else self.noise(t - dt)[1]
        if p_x0 is None:
            log_x0 = self.forward(x, self._sigma_from_alphat(alpha_t), labels)
            if self.config.sampling.use_float64:
                log_x0 = double(log_x0)
            p_x0 = log_x0.exp()
            if self.p_nucleus < 1:
                p_x0 = nucleus(p_x0, self.p_nucleus)
        known = (y.to(p_x0.device) for y in (x, alpha_s, alpha_t))
        q_xs = self._posterior_from_x0(p_x0, *known)
        return p_x0, categorical(q_xs, None).to(x.device)

    @torch.no_grad()
    def generate_samples(self, num_samples, labels=None, num_steps=None, eps=1e-5):
        """Draw token ids (num_samples, model.length) by `sampling.predictor`."""
        num_steps = num_steps or self.config.sampling.steps
        x = self._begun(self.prior_sample(num_samples, self.num_tokens))
        times = torch.linspace(1, eps, num_steps + 1, dtype=torch.float64)
        p_x0 = None
        for now, after in itertools.pairwise(times.tolist()):
            t = torch.full((num_samples, 1), now, device=self.device)
            p_x0, x_next = self._ancestral_update(x, t, labels, now - after, p_x0)
            x_next = self._begun(x_next)
            cached = self.sampler == "ancestral_cache" and not self.time_conditioning
            if not (cached and torch.equal(x_next, x)):
                p_x0 = None  # the input changed, so will the prediction
            x = x_next
        t = torch.full((num_samples, 1), eps, device=self.device)
        if self.config.sampling.noise_removal == "ancestral":
            _, x = self._ancestral_update(x, t, labels, None, p_x0, noise_removal_step=True)
        elif self.config.sampling.noise_removal == "greedy":
            sigma = self._sigma_from_alphat(self.noise(t)[1])
            x = self.forward(x, sigma, labels).argmax(-1)
        return self._begun(x)

    def _begun(self, x):
        if self.ignore_bos:
            x[:, 0] = self.tokenizer.bos_token_id  # the model saw no other
        return x
