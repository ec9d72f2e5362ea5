"""The masked diffusion duality: Sections 3.1 and 3.2 of the paper.

A Gaussian diffusion w_t over K dimensions (the vocabulary and the mask), projected
to the clean token or to the mask, has the marginals of masked diffusion. Along its
deterministic path, and there alone, it is masked diffusion, where the whole noise
vector acts through one uniform scalar u per token. Training needs only u. Here is the
Gaussian side, and the law of the noise gap Y = max_{j != k} eps_j - eps_k between both.

`alpha_t` is the discrete schedule (gamma_t in the paper), `alpha_tilde` and
`sigma_tilde` are the Gaussian one, `num_classes` is K. Tensors may have any floating
dtype, schedules and points may be plain numbers; the computation is in float64, the
answer in the dtype that was given. Bad input raises `ConfigError`.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from mdlm_mcd.errors import ConfigError

# Quadrature nodes v = i / 16 for |v| <= 38.5, where phi(v) underflows. At this step
# the trapezoidal rule is exact to rounding in the bulk for every K up to millions:
# its error falls as exp(-2 pi d / step), with d about pi / sqrt(8 log K) the width of
# the strip around the real line in which Phi^(K-1) stays bounded.
_NODES_PER_UNIT = 16
_REACH = 38.5
# Beyond nine standard deviations the Gaussian weighs less than float64 resolves.
_MARGIN = 9.0
# Points times nodes is held in memory for this many points at a time.
_CHUNK = 1024


def latent(x0, eps, alpha_tilde, sigma_tilde):
    """Eq. 7, and Eq. 9 where eps is kept: w_t = alpha_tilde x0 + sigma_tilde eps.

    x0: token ids (...,) in [0, K); their one-hot is never built. eps: (..., K).
    alpha_tilde, sigma_tilde: numbers or tensors that broadcast with (...,), where
    more leading dimensions, such as time, come out in front. Returns w_t (..., K) in
    the dtype of eps. Raises ConfigError if eps or a coefficient is not finite, or
    x0 or a coefficient does not fit eps.
    """
    _check_noise("eps", eps)
    x0 = _check_index("x0", x0, eps)
    alpha = _check_coefficient("alpha_tilde", alpha_tilde).to(eps.device)
    sigma = _check_coefficient("sigma_tilde", sigma_tilde).to(eps.device)
    try:
        alpha, sigma, x0 = torch.broadcast_tensors(alpha, sigma, x0)
    except RuntimeError:
        raise ConfigError(
            f"alpha_tilde of shape {tuple(alpha.shape)} and sigma_tilde of shape "
            f"{tuple(sigma.shape)} do not broadcast with tokens of shape "
            f"{tuple(x0.shape)}: give numbers, or dimensions of 1."
        ) from None
    # With its last dimension the coefficient promotes the product to float64, and
    # no float64 copy of eps is made.
    w_t = sigma.unsqueeze(-1) * eps
    w_t = w_t.scatter_add_(-1, x0.unsqueeze(-1), alpha.unsqueeze(-1))
    return w_t.to(eps.dtype)


def project(w_t, x0, mask_index):
    """Eq. 8: x0 where its coordinate of w_t is strictly the largest, else the mask.

    Of `latent` with eps kept it is Eq. 10, which draws nothing anew: the path over
    all times is a function of (x0, eps), Proposition 3.2.

    w_t: (..., K). x0: token ids (...,) in [0, K). mask_index: an id in [0, K).
    Returns z_t (...,), int64. Raises ConfigError if w_t is not finite, or x0 or
    mask_index does not fit it.
    """
    _check_noise("w_t", w_t)
    x0 = _check_index("x0", x0, w_t)
    mask = _check_index("mask_index", mask_index, w_t)
    return torch.where(_gap(w_t, x0) < 0, x0, mask)


def noise_gap(eps, k):
    """Lemma 3.1: Y = max_{j != k} eps_j - eps_k.

    eps: (..., K). k: clean token ids in [0, K), broadcast to (...,). Returns Y (...,)
    in the dtype of eps, differentiable. Raises ConfigError if eps is not finite or k
    does not fit it.
    """
    _check_noise("eps", eps)
    return _gap(eps, _check_index("k", k, eps)).to(eps.dtype)


def calibrate(alpha_t, num_classes):
    """Lemma 3.1: the Gaussian schedule whose projection keeps a token w.p. alpha_t.

    alpha_tilde / sigma_tilde = F_Y^{-1}(alpha_t), alpha_tilde^2 + sigma_tilde^2 = 1.
    F_Y maps the whole line onto (0, 1), so the ratio is negative where alpha_t <
    F_Y(0) = 1/K: noise alone keeps a token that often. There alpha_tilde is negative,
    as on no forward SDE's way, which ends at 0; the straight path of Eq. 9 does not
    mind. sigma_tilde is always positive.

    alpha_t: in (0, 1), any shape. num_classes: int >= 2. Returns (alpha_tilde,
    sigma_tilde) in the shape and dtype of alpha_t. Raises ConfigError if alpha_t or
    num_classes is out of its range.
    """
    alpha, dtype = _double("alpha_t", alpha_t)
    remedy = "keep the schedule off both ends, as 1 - (1 - 1e-3) t does for t > 0"
    inside = (alpha > 0) & (alpha < 1)
    _check_range("alpha_t", alpha, inside, f"lies outside (0, 1): {remedy}")
    ratio = _law(num_classes).icdf(alpha)
    norm = torch.hypot(ratio, torch.ones_like(ratio))
    return (ratio / norm).to(dtype), (1 / norm).to(dtype)


def to_uniform(eps, k, law):
    """Theorem 3.3, Eq. 11 and 12: u = F_Y(Y), the one scalar that masking depends on.

    `project(latent(x0, eps, *calibrate(alpha_t, K)), x0, mask_index)` is the mask
    exactly where u > alpha_t, up to ties, whose probability is zero.

    eps: (..., K). k: clean token ids in [0, K), broadcast to (...,). law: a `NoiseGap`
    or num_classes. Returns u (...,) in the dtype of eps, uniform on [0, 1] for
    Gaussian eps. Raises ConfigError if eps is not finite, or k or law does not fit it.
    """
    law = law if isinstance(law, NoiseGap) else _law(law)
    _check_noise("eps", eps)
    if eps.shape[-1] != law.num_classes:
        raise ConfigError(
            f"num_classes={law.num_classes} does not match eps of shape "
            f"{tuple(eps.shape)}: give the size of its last dimension."
        )
    return law.cdf(_gap(eps, _check_index("k", k, eps))).to(eps.dtype)


def duo_transform(alpha_tilde, num_classes):
    """Duo, Eq. 10: the diffusion transformation operator T.

    T(alpha_tilde) = K/(K-1) (int phi(z - r) Phi^(K-1)(z) dz - 1/K) with
    r = alpha_tilde / sqrt(1 - alpha_tilde^2). The integral is F_Y(r): arg max and the
    masking projection keep a token on the same event.

    alpha_tilde: in [0, 1], any shape. num_classes: int >= 2. Returns the uniform-state
    alpha_t in the shape and dtype of alpha_tilde. Raises ConfigError if alpha_tilde or
    num_classes is out of its range.
    """
    alpha, dtype = _double("alpha_tilde", alpha_tilde)
    remedy = "give the signal coefficient of a variance-preserving schedule"
    inside = (alpha >= 0) & (alpha <= 1)
    _check_range("alpha_tilde", alpha, inside, f"lies outside [0, 1]: {remedy}")
    # At alpha_tilde = 1 the clamp keeps the slope at 0, where it would be 0 * inf.
    noise = ((1 - alpha) * (1 + alpha)).clamp(min=1e-30).sqrt()
    kept = _law(num_classes).cdf(alpha / noise)
    return ((num_classes * kept - 1) / (num_classes - 1)).to(dtype)


class _Side(NamedTuple):
    """One half of the line, with the tail that is small there: F_Y or 1 - F_Y."""

    sign: int  # slope of the tail: +1 for F_Y, -1 for 1 - F_Y
    nodes: torch.Tensor  # v (N,)
    weights: torch.Tensor  # (N, 2): integrands of the tail and of the density
    table_y: torch.Tensor  # from far out to the split
    table_p: torch.Tensor  # the tail at table_y, ascending


class NoiseGap:
    """F_Y of Lemma 3.1: the law of Y = max_{j != k} eps_j - eps_k, eps ~ N(0, I_K).

    With v for the maximum and n = K - 1, everything is one Gaussian convolution
    int phi(v - y) w(v) dv: w = Phi^n gives F_Y, w = 1 - Phi^n gives 1 - F_Y and
    w = n phi Phi^(n-1) the density. All terms are positive and w comes from log Phi,
    so the tail that is small at y keeps its relative accuracy: to 1e-9 down to 1e-300
    for K up to 200,000, and 1e-13 absolutely. A cdf within 1e-16 of 1 is 1 in float64:
    far up there use `sf` and `isf`.

    Methods take numbers or tensors of any shape, answer in their shape and dtype and
    are differentiable; what is no number is a ConfigError. num_classes: an int from 2
    to 2^31, else ConfigError.
    """

    # Laws are cached: one built in a validation loop has to serve training as well.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, num_classes):
        if type(num_classes) is not int or not 2 <= num_classes <= 2**31:
            raise ConfigError(
                f"num_classes={num_classes!r} is not an int from 2 to 2^31: give the "
                "vocabulary size plus one for the mask."
            )
        self.num_classes = num_classes
        # The median of the maximum. F_Y is about one half there, which makes it the
        # point to change from F_Y to 1 - F_Y.
        half = -math.expm1(math.log(0.5) / (num_classes - 1))
        half = torch.tensor(half, dtype=torch.float64, device="cpu")
        self._split = -torch.special.ndtri(half).item()
        self._sides = (self._side(+1), self._side(-1))

    def __repr__(self):
        return f"NoiseGap(num_classes={self.num_classes})"

    def cdf(self, y):
        """F_Y(y) = P(Y < y)."""
        y, dtype = _double("y", y)
        return _Probability.apply(y, self, +1).to(dtype)

    def sf(self, y):
        """1 - F_Y(y), with full relative accuracy in the upper tail."""
        y, dtype = _double("y", y)
        return _Probability.apply(y, self, -1).to(dtype)

    def pdf(self, y):
        """The density of Y at y."""
        y, dtype = _double("y", y)
        return self._tail_and_density(y)[..., 1].to(dtype)

    def icdf(self, u):
        """F_Y^{-1}(u): -inf at 0, inf at 1, nan outside; subnormal u saturate."""
        u, dtype = _double("u", u)
        return _Quantile.apply(u, self, +1).to(dtype)

    def isf(self, q):
        """F_Y^{-1}(1 - q), for q that would not survive in 1 - q."""
        q, dtype = _double("q", q)
        return _Quantile.apply(q, self, -1).to(dtype)

    def _side(self, sign):
        n = self.num_classes - 1
        last = int(_REACH * _NODES_PER_UNIT)
        v = torch.arange(-last, last + 1, dtype=torch.float64, device="cpu")
        v = v / _NODES_PER_UNIT
        log_ndtr = torch.special.log_ndtr(v)
        tail = (n * log_ndtr).exp() if sign > 0 else -(n * log_ndtr).expm1()
        log_phi = -v.square() / 2 - math.log(2 * math.pi) / 2
        density = n * (log_phi + (n - 1) * log_ndtr).exp()
        scale = _NODES_PER_UNIT * math.sqrt(2 * math.pi)
        used = (tail > 0) & (sign * (v - self._split) <= _MARGIN)
        nodes, weights = v[used], torch.stack([tail, density], -1)[used] / scale
        # Four entries a unit, out to where even K = 2, the widest law, underflows.
        steps = torch.arange(240, -1, -1, dtype=torch.float64, device="cpu")
        y = self._split - sign * steps / 4
        p = _convolve(y, nodes, weights)[:, 0]
        normal = p >= torch.finfo(p.dtype).tiny
        return _Side(sign, nodes, weights, y[normal], p[normal])

    def _tail_and_density(self, y):
        """(..., 2): F_Y below the split and 1 - F_Y above it; the density."""
        out = y.new_empty(*y.shape, 2)
        below = y < self._split
        for here, side in zip((below, ~below), self._sides, strict=True):
            out[here] = _convolve(y[here], side.nodes, side.weights)
        return out

    def _probability(self, y, sign):
        tail = self._tail_and_density(y)[..., 0]
        return torch.where((y < self._split) == (sign > 0), tail, 1 - tail)

    def _quantile(self, p, sign):
        near, far = self._sides[::sign]
        y = torch.empty_like(p)
        small = p <= near.table_p[-1].item()
        # Where p is not small it is about one half or more, and 1 - p is exact.
        for here, q, side in ((small, p, near), (~small, 1 - p, far)):
            y[here] = _solve(q[here], side)
        return y


class _Probability(torch.autograd.Function):
    """F_Y (sign +1) or 1 - F_Y (sign -1), whose derivative is the density."""

    @staticmethod
    def forward(ctx, y, law, sign):
        ctx.save_for_backward(y)
        ctx.law, ctx.sign = law, sign
        return law._probability(y, sign)

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return ctx.sign * grad * ctx.law.pdf(y), None, None


class _Quantile(torch.autograd.Function):
    """The inverse of `_Probability`, by the inverse function theorem."""

    @staticmethod
    def forward(ctx, p, law, sign):
        y = law._quantile(p, sign)
        ctx.save_for_backward(y)
        ctx.law, ctx.sign = law, sign
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return ctx.sign * grad / ctx.law.pdf(y), None, None


_cached = lru_cache(maxsize=16)(NoiseGap)


def _law(num_classes):
    # What is no int may not hash, or equal one as 3.0 does: NoiseGap refuses it.
    return (_cached if isinstance(num_classes, int) else NoiseGap)(num_classes)


def _convolve(y, nodes, weights):
    """sum_v exp(-(v - y)^2 / 2) weights(v): y (P,), nodes (N,), weights (N, C)."""
    nodes, weights = nodes.to(y.device) * math.sqrt(0.5), weights.to(y.device)
    parts = (y * math.sqrt(0.5)).unsqueeze(-1).split(_CHUNK)
    return torch.cat([(nodes - part).square().neg().exp() @ weights for part in parts])


def _solve(q, side):
    """The y (P,) whose tail is q (P,), by Newton's method on the log of the tail.

    Y is log-concave, so log F_Y and log(1 - F_Y) are concave: iterates that start
    farther out than the root approach it from there and never pass it. The table
    starts them within 1/4 of it, from where five steps reach rounding.
    """
    table_y, table_p = side.table_y.to(q.device), side.table_p.to(q.device)
    target = q.clamp(min=torch.finfo(q.dtype).tiny)
    y = table_y[(torch.searchsorted(table_p, target) - 1).clamp(min=0)]
    for _ in range(5):
        tail, density = _convolve(y, side.nodes, side.weights).unbind(-1)
        y = y + side.sign * (target.log() - tail.log()) * tail / density
    # At zero and below the logarithm has the right answer: infinity, nan.
    return torch.where(q > 0, y, side.sign * q.log())


def _gap(values, k):
    """max_{j != k} values_j - values_k: (..., K), (...,) -> (...,) in float64."""
    # The top two hold the largest rival of any k; a masked copy would be as large as
    # the noise itself.
    top, index = values.topk(2, dim=-1)
    rival = torch.where(index[..., 0] == k, top[..., 1], top[..., 0])
    return rival.double() - values.gather(-1, k.unsqueeze(-1)).squeeze(-1).double()


def _tensor(name, value, **options):
    try:
        return torch.as_tensor(value, **options)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{name}={value!r} does not make a tensor: give a number, or a tensor."
        ) from None


def _double(name, value):
    """The value in float64, and the dtype to answer in."""
    if not isinstance(value, torch.Tensor):
        value = _tensor(name, value, dtype=torch.float64)
    if value.is_complex():
        raise ConfigError(f"{name} has dtype {value.dtype}: give real numbers.")
    return value.double(), value.dtype if value.is_floating_point() else torch.float64


def _check_range(name, value, inside, complaint):
    if not inside.all():
        raise ConfigError(f"{name}={value[~inside][0].item()} {complaint}.")


def _check_noise(name, noise):
    if not isinstance(noise, torch.Tensor) or not noise.is_floating_point():
        kind = noise.dtype if isinstance(noise, torch.Tensor) else type(noise).__name__
        raise ConfigError(f"{name} is of {kind}: give a floating-point torch.Tensor.")
    if noise.dim() == 0 or noise.shape[-1] < 2:
        raise ConfigError(
            f"{name} of shape {tuple(noise.shape)} does not end in num_classes >= 2: "
            "give it as (..., num_classes)."
        )
    # The two extremes tell, without a mask as large as the noise.
    for extreme in noise.detach().aminmax() if noise.numel() else ():
        if not extreme.isfinite():
            raise ConfigError(
                f"{name} contains {extreme.item()}, which is not finite: draw it with "
                "torch.randn and check what it was scaled by."
            )


def _check_coefficient(name, value):
    value, _ = _double(name, value)
    remedy = "take it from calibrate"
    _check_range(name, value, value.isfinite(), f"is not finite: {remedy}")
    return value


def _check_index(name, index, noise):
    """The index as int64, expanded to the leading shape of the noise."""
    index = _tensor(name, index, device=noise.device)
    shape, num_classes = tuple(noise.shape[:-1]), noise.shape[-1]
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ConfigError(f"{name} has dtype {index.dtype}: give token ids as int64.")
    known = (index >= 0) & (index < num_classes)
    remedy = f"give ids from 0 to {num_classes - 1}"
    _check_range(name, index, known, f"is not one of {num_classes} classes: {remedy}")
    try:
        return index.long().expand(shape)
    except RuntimeError:
        raise ConfigError(
            f"{name} of shape {tuple(index.shape)} does not fit {tuple(noise.shape)}: "
            f"give one id per vector of noise, shape {shape}."
        ) from None
