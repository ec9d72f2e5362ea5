"""Samplers: what each costs, what a law of u or an option is worth, what one latent saves.

    python benchmarks/samplers.py [text]

The first table times the head's part of sampling (projection, softmax, draw), the backbone left
out, on one thread. The others sample an exact language, a Markov chain whose denoiser is computed,
not learned, so that all error is the sampler's: perplexity is that of the samples under the chain
itself, and entropy, in nats, that of a sample's tokens. With `text` there is another pair of tables
alone, of the teacher that comes with the package, under its judge.
"""

import argparse
import math
import time
from itertools import product

import torch
from bench import language

from mdlm_mcd import laws
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.evaluation import candidates, embedded
from mdlm_mcd.evaluation.diversity import sample_entropy
from mdlm_mcd.evaluation.evaluators import CallableEvaluator
from mdlm_mcd.sampling import Latent, sample

KINDS, LENGTH, BATCH, TEXTS = 32, 64, 512, 128
HEAD = {"vocab": 50_257, "length": 256, "width": 256, "steps": 16}


def draw(name, denoise, batch, length, steps, vocab, **how):
    sizes = dict(mask_index=vocab - 1, vocab_size=vocab, alpha=lambda t: 1 - (1 - 1e-3) * t)
    return sample(name, denoise, batch, length, steps, **sizes, **how)


def head(vocab, length, width, steps):
    """Print seconds and projected rows of one sequence's head, each way."""
    g = counter_generator(0)
    hidden = torch.randn(1, length, width, generator=g)
    weight = torch.randn(vocab, width, generator=g) / width**0.5
    print(
        f"head's part of a sequence: vocabulary {vocab}, length {length}, width {width}, {steps} "
        f"steps, 1 thread\n{'sampler':<14}{'seconds':>9}{'ratio':>8}{'rows':>8}{'evaluations':>13}"
    )
    seen, first = [], None

    def denoise(z, rows):
        seen.append(int(rows.sum()))
        return hidden[rows] @ weight.T

    for name in ("ancestral", "sparse", "locked", "first_hitting"):
        seen.clear()
        start = time.perf_counter()
        drawn = draw(name, denoise, 1, length, steps, vocab, generator=counter_generator(1))
        seconds = time.perf_counter() - start
        first = first or seconds
        figures = f"{seconds / first:>8.3f}{sum(seen):>8}{drawn.evaluations:>13}"
        print(f"{name:<14}{seconds:>9.2f}{figures}")


class Language(language.Language):
    """`lag` interleaved Markov chains: x_i depends on x_{i - lag}."""

    mask_index = KINDS

    def __init__(self, lag=1, sharpness=1.0):
        super().__init__(KINDS, components=1)
        g = counter_generator("language")
        logits = 2.5 * torch.randn(KINDS, KINDS, generator=g, dtype=torch.float64)
        self.lag, self.step = lag, (sharpness * logits).softmax(-1)[None]
        self.start = torch.linalg.matrix_power(self.step, 1000)[:, 0]

    def strands(self, x):
        return x.view(len(x), -1, self.lag).mT.flatten(0, 1)

    def log_prob(self, x):
        return super().log_prob(self.strands(x)).view(len(x), -1).sum(-1)

    def posterior(self, z):
        found = super().posterior(self.strands(z)).unflatten(0, (len(z), -1))
        return found.transpose(1, 2).flatten(1, 2)

    def information(self):
        """Return the mutual information by lag, as `laws.mutual_information` estimates it."""
        mi, start = torch.zeros(LENGTH - 1, dtype=torch.float64), self.start[0]
        for k in range(1, (LENGTH - 1) // self.lag + 1):
            far = torch.linalg.matrix_power(self.step[0], k)
            mi[k * self.lag - 1] = (start[:, None] * far * (far / start).log()).sum()
        return mi

    def perplexity(self):
        """Return that of the language itself, the first token of a sequence included."""
        step = self.start[0] @ torch.special.entr(self.step[0]).sum(-1)
        return math.exp((torch.special.entr(self.start).sum() + (LENGTH - 1) * step) / LENGTH)

    def draw_by(self, name, steps, seed=3, **how):
        how["generator"] = counter_generator(seed)
        denoise = language.Oracle(self).denoise
        return draw(name, denoise, BATCH, LENGTH, steps, KINDS + 1, **how).tokens


class Text:
    """What the shipped teacher says, and how likely its judge finds that."""

    def __init__(self):
        source = candidates.Source("teacher", "mdlm-mcd/teacher")
        self.model = candidates.open_model(source)
        self.mask_index = self.model.mask_index
        self.text = candidates.held_out(source, self.model, 512, ())
        self.nll = CallableEvaluator(embedded.open_judge("mdlm-mcd/judge").nll, "judge").nll

    def information(self):
        return laws.mutual_information(self.text, generator=counter_generator("lags"))

    def draw_by(self, name, steps, seed=3, **how):
        how["generator"] = counter_generator(seed)
        size = self.model.vocab_size
        return draw(name, self.model.denoise, TEXTS, LENGTH, steps, size, **how).tokens


def figures(spoken, x):
    return f"{spoken.nll(x).perplexity:.2f} / {sample_entropy(x).mean():.3f}"


def table(title, languages, ways, cell):
    """Print cell(spoken, sampler, steps, options) for each way and language."""
    print(f"\n{title}\n{'':<42}" + "".join(f"{name:>24}" for name in languages))
    for label, (name, steps, how) in ways.items():
        cells = [f"{cell(spoken, name, steps, how):>24}" for spoken in languages.values()]
        print(f"{label:<42}" + "".join(cells), flush=True)


def of_laws(steps, languages):
    fitted = {
        spoken: laws.fit_step(spoken.information(), LENGTH, steps) for spoken in languages.values()
    }
    lattice = dict(u_law="lattice")
    options = {
        "iid": {},
        "iid, stratified": dict(stratified=True),
        "lattice, golden": lattice,
        "lattice, golden, stratified": lattice | dict(stratified=True),
        f"lattice, 1/{steps}": lattice | dict(u_step=1 / steps),
        "lattice, auto": lattice | dict(u_step="auto"),
        "halton": dict(u_law="halton"),
        "dilated": dict(u_law="dilated"),
        "iid, T 1.1 -> 0.7": dict(temperature=(1.1, 0.7)),
        "iid, T 0.7 -> 1.1": dict(temperature=(0.7, 1.1)),
    }
    ways = {label: ("sparse", steps, how) for label, how in options.items()}
    ways["confidence"] = ("confidence", steps, {})
    ways[f"first_hitting ({LENGTH} evaluations)"] = ("first_hitting", steps, {})

    def cell(spoken, name, steps, how):
        own = {"u_step": fitted[spoken]} if how.get("u_step") == "auto" else {}
        return figures(spoken, spoken.draw_by(name, steps, **how | own))

    title = f"{steps} evaluations, samples of {LENGTH}: perplexity / entropy of a sample"
    table(title, languages, ways, cell)
    print("fitted steps:", ", ".join(f"{s:.4f}" for s in fitted.values()))


def of_options(languages, etas=(0.04, 0.2, 1.0), levels=(0.3, 0.5, 0.7, 0.95)):
    """Print what remasking, thresholds and spacing are worth, each at its evaluations."""
    few, spaced = (8, 16, 32), dict(spacing=8)
    each = {"": {}, ", spacing 8": spaced, ", block 16": dict(block=16)}
    ways = {f"iid, {n} steps": ("sparse", n, {}) for n in (*few, 64)}
    for n, eta in product(few, etas):
        ways[f"ancestral, remask {eta:g}, {n} steps"] = ("ancestral", n, dict(remask=eta))
    ways |= {f"confidence, {n} steps": ("confidence", n, {}) for n in few}
    ways |= {f"confidence, spacing 8, {n} steps": ("confidence", n, spaced) for n in few}
    for level, (label, how) in product(levels, each.items()):
        own = dict(threshold=level) | how
        ways[f"confidence, threshold {level:g}{label}"] = ("confidence", LENGTH, own)

    def cell(spoken, name, steps, how):
        left = [1.0]  # the share of sequences with masks before each step

        def count(step, z):
            left.append((z == spoken.mask_index).any(-1).double().mean().item())

        x = spoken.draw_by(name, steps, callback=count, **how)
        return f"{sum(left):.1f}  {figures(spoken, x)}"

    title = f"samples of {LENGTH}: evaluations of a mean sequence, perplexity / entropy of a sample"
    table(title, languages, ways, cell)


def of_a_latent(steps=8):
    """Print the variance of the difference of two models' nats a token, by sequence."""
    truth, other = Language(), Language(sharpness=1.1)
    print(
        f"\nvariance of a difference in nats a token, {BATCH} sequences, by what the "
        f"two samples share\n{'difference':<30}{'nothing':>10}{'generator':>11}"
        f"{'latent':>9}{'saved':>8}"
    )
    pairs = {
        f"model, {steps} steps": ((truth, steps), (other, steps)),
        "model, 64 steps": ((truth, 64), (other, 64)),
        f"{steps} against 64 steps": ((truth, steps), (truth, 64)),
    }
    shares = (  # nothing, the generator, the latent
        ("sparse", [dict(seed=3), dict(seed=4)]),
        ("sparse", [{}, {}]),
        ("locked", [dict(latent=Latent(3)), dict(latent=Latent(3))]),
    )
    for label, pair in pairs.items():
        spread = []
        for name, hows in shares:
            a, b = (x.draw_by(name, n, **h) for (x, n), h in zip(pair, hows, strict=True))
            spread.append(float((truth.log_prob(a) - truth.log_prob(b)).div(LENGTH).var()))
        nothing, generator, latent = spread
        figures = f"{nothing:>10.4f}{generator:>11.4f}{latent:>9.4f}{nothing / latent:>7.1f}x"
        print(f"{label:<30}{figures}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("of", nargs="?", choices=["text"], help="the shipped teacher alone")
    torch.set_num_threads(1)
    if parser.parse_args().of == "text":
        text = {"text": Text()}
        for steps in (4, 8, 16):
            of_laws(steps, text)
        of_options(text, etas=(0.04, 0.2), levels=(0.5, 0.7, 0.95))
        return
    head(**HEAD)
    for steps in (4, 8):
        of_laws(steps, {"chain": Language(), f"chains of lag {steps}": Language(lag=steps)})
    of_options({"chain": Language(), "chains of lag 8": Language(lag=8)})
    of_a_latent()
    print(f"\nthe language itself: perplexity {Language().perplexity():.2f}")


if __name__ == "__main__":
    main()
