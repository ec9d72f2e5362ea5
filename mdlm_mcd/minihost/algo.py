"""Define the host's models: MDLM (masked), DUO_BASE (uniform-state), AR (evaluator)."""

import torch
import torch.nn.functional as F

from .. import head, losses
from ..errors import ConfigError
from ..models import vocabulary
from ..sampling.chain import categorical
from . import trainer_base


class MDLM(trainer_base.Diffusion):
    """Masked diffusion under SUBS: no mass on the mask, visible tokens stay."""

    ALLOWED = trainer_base.Diffusion.ALLOWED | {
        "algo.parameterization": ["subs"],
        "algo.loss_type": ["elbo", "low_var"],
        "sampling.predictor": ["ancestral", "ancestral_cache"],
    }

    def __init__(self, config, tokenizer):
        vocab_size, self.mask_index = vocabulary.masked(tokenizer)
        super().__init__(config, tokenizer, vocab_size)

    def prior_sample(self, *batch_dims):
        return torch.full(batch_dims, self.mask_index, device=self.device)

    def _posterior_from_x0(self, x0, xt, alpha_s, alpha_t):
        open_now = ((alpha_s - alpha_t) / (1 - alpha_t)).to(x0.dtype)
        q_xs = open_now[..., None] * x0
        q_xs[..., self.mask_index] = 1 - open_now
        visible = xt != self.mask_index
        return torch.where(visible[..., None], F.one_hot(xt, self.vocab_size).to(x0.dtype), q_xs)

    def _process_model_output(self, model_output, xt, sigma):
        return losses.subs(model_output, xt, self.mask_index)

    def nll_per_token(self, log_x_theta, xt, x0, alpha_t, dalpha_t):
        """Return the NELBO's integrand."""
        log_p = log_x_theta.gather(-1, x0[..., None]).squeeze(-1)
        return log_p * dalpha_t / (1 - alpha_t)

    def _loss(
        self, x0, labels, valid_tokens, current_accumulation_step=None, train_mode=False, given=None
    ):
        """Train on the masked tokens alone: the others cost nothing under SUBS.

        Their logits are never made, as in `head`. `low_var` drops the NELBO's weight.
        """
        if not train_mode:
            return super()._loss(x0, labels, valid_tokens, given=given)
        xt, alpha_t, dalpha_t = self._noised(x0, current_accumulation_step, given)
        sigma = self._process_sigma(self._sigma_from_alphat(alpha_t))
        masked = (xt == self.mask_index) & (valid_tokens > 0)
        weight = (
            torch.ones_like(alpha_t) if self.loss_type == "low_var" else -dalpha_t / (1 - alpha_t)
        )
        nlls = head.supervise(
            "ce",
            head.encode(self.backbone, lambda net: net(x=xt, sigma=sigma, class_cond=labels)),
            None,
            x0,
            masked,
            torch.zeros_like(masked),
            tau=1.0,
            mask_index=self.mask_index,
            weight=weight.expand(x0.shape),
            compile=self.compiled,
        ).loss
        num_tokens = valid_tokens.sum()
        return trainer_base.Loss(nlls / num_tokens, nlls, num_tokens)


class DUO_BASE(trainer_base.Diffusion):
    """Duo's uniform-state model, trained on the continuous-time NELBO.

    Its noise is a token of the vocabulary, each as likely as the next:
    q(z_t | x0) = Cat(alpha_t x0 + (1 - alpha_t) / K). It is time-conditioned, and its
    vocabulary is the tokenizer's, without a mask: K = `vocabulary.uniform(tokenizer)`.
    """

    ALLOWED = trainer_base.Diffusion.ALLOWED | {
        "algo.parameterization": ["mean"],
        "algo.time_conditioning": [True],
        "algo.causal_attention": [False],
        "algo.loss_type": ["elbo"],
        "sampling.predictor": ["ancestral"],
    }

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer, vocabulary.uniform(tokenizer))

    def prior_sample(self, *batch_dims):
        return torch.randint(self.vocab_size, batch_dims, device=self.device)

    def _posterior_from_x0(self, x0, xt, alpha_s, alpha_t):
        """Return q(z_s | z_t) by Bayes, the prediction x0 in place of the clean token."""
        alpha_s, alpha_t = (a.to(x0.dtype)[..., None] for a in (alpha_s, alpha_t))
        stays = alpha_t / alpha_s
        q_xs = (alpha_s * x0 + (1 - alpha_s) / self.vocab_size) * ((1 - stays) / self.vocab_size)
        here = xt[..., None]
        p_here = alpha_s * x0.gather(-1, here) + (1 - alpha_s) / self.vocab_size
        q_xs.scatter_add_(-1, here, stays * p_here)
        return q_xs / q_xs.sum(-1, keepdim=True)

    def _process_model_output(self, model_output, xt, sigma):
        return model_output.log_softmax(-1)

    def nll_per_token(self, log_x_theta, xt, x0, alpha_t, dalpha_t):
        """Return the NELBO's integrand, (batch, length), in nats; never negative.

        With x_bar = K alpha_t x + 1 - alpha_t for the clean token's one-hot and for
        the prediction, the reverse process jumps from z to y at the rates
        r x_bar_y / x_bar_z, r = -alpha_t' / (K alpha_t). What the NELBO gathers per
        unit of time is the divergence of two such jump processes,
        r sum_y s_y (e^d_y - 1 - d_y), with s_y the ratio of the clean token and
        d_y = log(ratio of the prediction / s_y). Each term is positive: unlike in the
        expanded form (Duo, Eq. 41), nothing large is subtracted.

        Its optimum is the law of the clean token given the other positions of z_t: what
        the token itself says of it, the reverse process adds by Bayes.
        """
        size = self.vocab_size
        alpha_t, dalpha_t = (a.to(log_x_theta.dtype) for a in (alpha_t, dalpha_t))
        noise, signal = (1 - alpha_t)[..., None], (size * alpha_t)[..., None]
        clean, here = x0[..., None], xt[..., None]
        # log of x_bar's quotient, prediction to clean token.
        quotient = (signal / noise * log_x_theta.exp()).log1p()
        at_clean = noise + signal * log_x_theta.gather(-1, clean).exp()
        quotient = quotient.scatter(-1, clean, at_clean.log() - (noise + signal).log())
        d = quotient - quotient.gather(-1, here)
        excess = d.expm1() - d
        # s_y is 1 but at the clean token, unless z is that token.
        of_clean = (noise + signal) / noise
        total = excess.sum(-1, keepdim=True)
        total = torch.where(
            here == clean, total / of_clean, total + (of_clean - 1) * excess.gather(-1, clean)
        )
        return total.squeeze(-1) * -dalpha_t / (size * alpha_t)


class AR(trainer_base.TrainerBase):
    """Left-to-right model on the same transformer, with the same vocabulary."""

    def __init__(self, config, tokenizer):
        vocab_size, self.mask_index = vocabulary.masked(tokenizer)
        super().__init__(config, tokenizer, vocab_size)
        if not config.algo.causal_attention:
            raise ConfigError(
                "algo.causal_attention=False lets an AR model see what it predicts: set it to True."
            )

    def _process_model_input(self, x0, valid_tokens):
        return x0[:, :-1], x0[:, 1:], valid_tokens[:, 1:]

    def _process_sigma(self, sigma):
        return None

    def _process_model_output(self, model_output, xt, sigma):
        return losses.subs_masked(model_output, self.mask_index)

    def nll(self, input_tokens, labels, output_tokens, *_):
        log_p = self.forward(input_tokens, None)
        return -log_p.gather(-1, output_tokens[..., None]).squeeze(-1)

    @torch.no_grad()
    def generate_samples(self, num_samples, labels=None, num_steps=None, eps=None):
        """Draw token ids (num_samples, model.length), left to right."""
        x = torch.full((num_samples, 1), self.tokenizer.bos_token_id, device=self.device)
        while x.shape[1] < self.num_tokens:
            log_p = self.forward(x, None)[:, -1]
            if self.config.sampling.use_float64:
                log_p = trainer_base.double(log_p)
            drawn = categorical(log_p.exp(), None).to(x.device)
            x = torch.cat((x, drawn[:, None]), dim=1)
        return x
