"""Languages of which everything is known: likelihood, samples and the denoiser.

`Language` is a mixture of Markov chains, where a token depends on its neighbours most of
all; `Topics` is a mixture of laws of single tokens, where all tokens agree on a topic and
none has a neighbour that matters. Each law is sparse plus a small floor, so that a token out
of place is costly and every likelihood is finite. Which chain or topic a sequence is from is
not marked.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.evaluation.intervals import Scores


class Language:
    """`components` chains over `vocab` tokens; the same for the same arguments.

    branches: successors of a token in a chain that share the mass 1 - floor; floor is
    spread over all tokens. Tensors are float64: weight (components,), start
    (components, vocab) and step (components, vocab, vocab), whose rows sum to 1.
    """

    name = "exact likelihood"  # as an evaluator of `evaluation.metrics.measure`

    def __init__(self, vocab=32, components=4, branches=4, floor=0.02, seed=0):
        g = counter_generator("language", seed)
        self.vocab = vocab
        self.weight = torch.full((components,), 1 / components, dtype=torch.float64)
        self.start = torch.full((components, vocab), 1 / vocab, dtype=torch.float64)
        order = torch.rand(components, vocab, vocab, generator=g).argsort(-1)
        mass = torch.empty(components, vocab, branches, dtype=torch.float64)
        mass.exponential_(generator=g)  # normalised: uniform on the simplex
        sparse = torch.zeros(components, vocab, vocab, dtype=torch.float64)
        sparse.scatter_(-1, order[..., :branches], mass / mass.sum(-1, keepdim=True))
        self.step = (1 - floor) * sparse + floor / vocab

    def draw(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw sequences: (count, length) int64."""

        def pick(p):
            return torch.multinomial(p, 1, generator=generator).squeeze(-1)

        chain = pick(self.weight.expand(count, -1))
        tokens = [pick(self.start[chain])]
        while len(tokens) < length:
            tokens.append(pick(self.step[chain, tokens[-1]]))
        return torch.stack(tokens, -1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p of sequences: x (batch, length) -> (batch,) float64 nats."""
        by_chain = self.weight.log() + self.start.log()[:, x[:, 0]].T
        if x.shape[1] > 1:
            by_chain += self.step.log()[:, x[:, :-1], x[:, 1:]].sum(-1).T
        return by_chain.logsumexp(-1)

    def nll(self, tokens: Tensor) -> Scores:
        """Score samples by the exact likelihood: every token counts."""
        count = torch.full((len(tokens),), float(tokens.shape[1]), dtype=torch.float64)
        return Scores(-self.log_prob(tokens), count)

    def posterior(self, z: Tensor) -> Tensor:
        """Return log p(x_i | the visible tokens of z): (batch, length, vocab) float64.

        z: (batch, length) ids, `vocab` where masked. Forward-backward in each chain;
        the chains are weighted by their posterior given z.
        """
        batch, length = z.shape
        kinds = torch.arange(self.vocab, device=z.device)
        seen = (z[..., None] == kinds) | (z == self.vocab)[..., None]
        seen = seen.double().unbind(1)  # length x (batch, vocab)
        forward, log_z = [], self.weight.log()[:, None].expand(-1, batch)
        ahead = self.start[:, None].expand(-1, batch, -1)
        for e in seen:
            here = ahead * e
            scale = here.sum(-1, keepdim=True)
            log_z = log_z + scale.squeeze(-1).log()
            forward.append(here / scale)
            ahead = forward[-1] @ self.step
        back, behind = [], torch.ones_like(forward[0])
        for e in reversed(seen):
            back.append(behind)
            behind = (e * behind) @ self.step.mT
            behind = behind / behind.sum(-1, keepdim=True)
        p = torch.stack(forward, 2) * torch.stack(back[::-1], 2)
        p = p / p.sum(-1, keepdim=True)  # (components, batch, length, vocab)
        chain = log_z.softmax(0)[..., None, None]
        return (chain * p).sum(0).log()


class Topics(Language):
    """`topics` laws of tokens; each sequence is drawn from one, token by token.

    A token is one of `shared`, of law 1 / (k + 1) at k, as often as a word of a topic: its
    own, of which each has `words`, but with chance `floor`, where it is one of all topics'.
    float64: weight (topics,) and law (topics, vocab), whose rows sum to 1; vocab = shared +
    topics * words.
    """

    def __init__(self, topics=32, words=2, shared=16, floor=0.05):
        self.vocab = shared + topics * words
        self.weight = torch.full((topics,), 1 / topics, dtype=torch.float64)
        common = 1 / torch.arange(1, shared + 1, dtype=torch.float64).expand(topics, -1)
        own = torch.eye(topics, dtype=torch.float64).repeat_interleave(words, 1) / words
        own = (1 - floor) * own + floor / (topics * words)
        self.law = torch.cat([common / common.sum(-1, keepdim=True), own], -1) / 2

    def draw(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        topic = torch.multinomial(self.weight, count, True, generator=generator)
        return torch.multinomial(self.law[topic], length, True, generator=generator)

    def by_topic(self, z: Tensor) -> Tensor:
        """Return log p(topic, the visible tokens of z): (batch, topics) float64."""
        log_p = nn.functional.pad(self.law.log(), (0, 1))  # a mask costs nothing
        return self.weight.log() + log_p.T[z].sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.by_topic(x).logsumexp(-1)

    def posterior(self, z: Tensor) -> Tensor:
        """Return log p(x_i | the visible tokens of z): naive Bayes, alike at all masks."""
        p = self.by_topic(z).softmax(-1) @ self.law
        own = nn.functional.one_hot(z, self.vocab + 1)[..., :-1].double()
        return torch.where((z == self.vocab)[..., None], p[:, None], own).log()


class Oracle(nn.Module):
    """The exact denoiser as a backbone, called as a host calls its own.

    (x (batch, length), sigma) -> logits (batch, length, vocab + 1) float32, the last
    column that of the mask. It needs no time: given z, x0 does not depend on it.
    """

    def __init__(self, language: Language):
        super().__init__()
        self.language = language

    @torch.no_grad()
    def forward(self, x: Tensor, sigma=None, class_cond=None) -> Tensor:
        logits = self.language.posterior(x).clamp(min=-1e6).float()
        return nn.functional.pad(logits, (0, 1))

    def denoise(self, z: Tensor, rows: Tensor) -> Tensor:
        """For `mdlm_mcd.sampling`: (rows.sum(), vocab + 1) logits, float64."""
        logits = self.language.posterior(z)[rows].clamp(min=-1e6)
        return nn.functional.pad(logits, (0, 1))
