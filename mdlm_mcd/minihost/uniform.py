"""Define the uniform-state model: tokens are replaced by random ones, not masked."""

import torch

from ..models import vocabulary
from . import trainer_base


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

    def q_xt(self, x, alpha_t):
        """x: (batch, length), alpha_t: (batch, 1) -> x with some tokens redrawn."""
        redrawn = torch.rand(x.shape, device=x.device) >= alpha_t
        if self.ignore_bos:
            redrawn[:, 0] = False
        return torch.where(redrawn, torch.randint_like(x, self.vocab_size), x)

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
