"""One step's loss and gradients in float64, token by token from the papers' text.

The reference is given the same random numbers and the host's own networks, no more.
"""

import copy
import itertools
import math

import pytest
import torch
from runs import built, distil, shaken

from mdlm_mcd import losses
from mdlm_mcd.coupling import counter_generator, draw_u, sample_nested_times, sample_times
from mdlm_mcd.distillers import cd4lm
from mdlm_mcd.distillers.mmd import reward
from mdlm_mcd.duality import NoiseGap, duo_transform
from mdlm_mcd.minihost import algo as host

LENGTH = 16


def case(config, algo, *overrides, rows, step):
    """(model, its student, its teacher, x0, valid, parts) of a step, differentiated."""
    given = ("algo.init_from=scratch", "algo.head_chunk=5", f"loader.batch_size={rows}")
    model = built(config(*given, *overrides, algo=algo)).double()
    student, teacher = shaken(model, model.curriculum.at(step).index)
    x0 = torch.randint(0, 250, (rows, LENGTH))
    valid = torch.ones(rows, LENGTH, dtype=torch.long)
    valid[2, 10:] = 0
    parts = distil(model, x0, valid, step)
    (parts.loss / valid.sum()).backward()
    return model, student, teacher, x0, valid, parts


def noise(name, step):
    return counter_generator(1, step, name)


def assert_contract(case, tokens):
    """tokens: the losses of the tokens that count, which depend on the case's student."""
    model, student, _, _, valid, parts = case
    total = sum(tokens) / valid.sum()
    total.backward()
    torch.testing.assert_close(parts.loss / valid.sum(), total, rtol=1e-12, atol=1e-12)
    for a, b in zip(model.backbone.parameters(), student.parameters(), strict=True):
        grad = torch.zeros_like(b) if b.grad is None else b.grad
        torch.testing.assert_close(a.grad, grad, rtol=1e-9, atol=1e-12)


TIMED = "algo.time_conditioning=true"


@pytest.mark.parametrize(
    "algo, coupling, law, timed",
    [
        ("mcd", "shared", "iid", True),
        ("mcd", "shared", "lattice", False),
        ("mcd", "independent", "iid", True),
        ("mcd", "none", "iid", True),
        ("subset", "shared", "iid", True),
    ],
)
def test_eq_14(config, algo, coupling, law, timed):
    """Reverse KL where neither view shows a token, -log p(x0) where the teacher's does."""
    given = (f"algo.coupling={coupling}", f"algo.u_law={law}", "algo.ignore_bos=true")
    found = case(config, algo, *given, f"algo.time_conditioning={timed}", rows=8, step=4)
    model, student, target, x0, valid, parts = found
    round_, mask = model.curriculum.at(4), model.mask_index
    g = noise("t", 4)
    nested = algo == "subset"
    times = sample_nested_times(8, generator=g) if nested else None
    t, s = times or sample_times(8, round_.delta, generator=g)
    s = t if coupling == "none" else s
    u = u_s = draw_u(8, LENGTH, law, generator=noise("u", 4))
    if coupling == "independent":
        u_s = draw_u(8, LENGTH, generator=noise("u of the teacher", 4))
    u[:, 0] = u_s[:, 0] = 0  # algo.ignore_bos
    alpha = [1 - (1 - 1e-3) * time[:, None] for time in (t, s)]
    z_t, z_s = (torch.where(v > a, mask, x0) for v, a in zip((u, u_s), alpha, strict=True))
    # The host's own `forward`, of a network with the student's parameters.
    reference = host.MDLM.forward.__get__(model)
    own, model.backbone = model.backbone, student
    log_student = reference(z_t, -torch.log(alpha[0]))
    model.backbone = own
    with torch.no_grad():
        sigma = -alpha[1].squeeze(-1).log() if timed else torch.zeros(8)
        log_teacher = losses.subs(target(z_s, sigma) / round_.tau, z_s, mask)
    tokens = []
    for b, i in ((z_t == mask) & (valid > 0)).nonzero().tolist():
        p, q = log_student[b, i], log_teacher[b, i]
        if nested:  # the forward KL at all of them
            tokens.append((q.exp() * (q - p)).sum())
        elif z_s[b, i] == mask:
            tokens.append((p.exp() * (p - q)).sum())
        else:
            tokens.append(-p[x0[b, i]])
    assert parts.distil_rows and bool(parts.reveal_rows) == (s is not t)
    assert parts.distil_rows + parts.reveal_rows == len(tokens)
    assert_contract(found, tokens)


@pytest.mark.parametrize("teacher_steps", [2, 3])
def test_sdtt(config, teacher_steps):
    """Each token against what the teacher knew in the step in which it opened."""
    given = ("algo.tau0=0.8", f"algo.teacher_steps={teacher_steps}", "algo.delta0=0.25")
    found = case(config, "sdtt", *given, TIMED, rows=4, step=4)
    model, student, target, x0, valid, parts = found
    round_, mask = model.curriculum.at(4), model.mask_index
    t, s = sample_times(4, round_.delta, generator=noise("t", 4))
    u = draw_u(4, LENGTH, generator=noise("u", 4))

    def keeps(time):
        return 1 - (1 - 1e-3) * time

    z_t = torch.where(u > keeps(t)[:, None], mask, x0)

    def drawn(name, k):
        return torch.rand(4, LENGTH, generator=noise(f"{name} {k}", 4), dtype=torch.float64)

    opens, values = ([drawn(n, k) for k in range(teacher_steps - 1)] for n in ("open", "token"))
    targets = {}
    with torch.no_grad():
        for b in range(4):
            z, dt = z_t[b].clone(), float(t[b] - s[b]) / teacher_steps
            for k in range(teacher_steps):
                now, after = keeps(t[b] - k * dt), keeps(t[b] - (k + 1) * dt)
                logits = target(z[None], -now[None].log())[0] / round_.tau
                logits[:, mask] = -torch.inf
                p = logits.softmax(-1)
                chance, following = (after - now) / (1 - now), z.clone()
                for i in range(LENGTH):
                    if z[i] == mask:
                        targets[b, i] = p[i]
                        if k < teacher_steps - 1 and opens[k][b, i] < chance:
                            following[i] = int((p[i].cumsum(-1) <= values[k][b, i]).sum())
                z = following
    log_student = losses.subs(student(z_t, -keeps(t).log()), z_t, mask)
    kept = [v for v in range(model.vocab_size) if v != mask]
    pairs = [(log_student[b, i, kept], q[kept]) for (b, i), q in targets.items() if valid[b, i]]
    assert (parts.distil_rows, parts.reveal_rows) == (len(pairs), 0)
    assert_contract(found, [(p.exp() * (p - q.log())).sum() for p, q in pairs])


@pytest.mark.parametrize("law", ["iid", "lattice"])
@pytest.mark.parametrize("ceiling, step", [(99.0, 3), (99.0, 5), (3.0, 5), (1e-3, 4)])
def test_cd4lm(config, monkeypatch, law, ceiling, step):
    """Raw logits at an exact count of masked tokens; a term beyond the ceiling is constant."""
    monkeypatch.setattr(cd4lm, "CEILING", ceiling)
    given = (TIMED, f"algo.u_law={law}", "algo.ignore_bos=true")
    found = case(config, "cd4lm", *given, rows=4, step=step)
    model, student, target, x0, valid, parts = found
    share_t = 0.4 + 0.5 * torch.rand(4, generator=noise("share", step))
    b = torch.rand(4, generator=noise("share of the teacher", step))
    share_s = (share_t * (0.3 + 0.4 * b)).clamp(0.1, 0.6)
    u, z_t, z_s = draw_u(4, LENGTH, law, generator=noise("u", step)), x0.clone(), x0.clone()
    for row in range(4):
        places = [i for i in range(1, LENGTH) if valid[row, i]]
        places.sort(key=lambda i: -u[row, i])
        for z, share in ((z_t, share_t), (z_s, share_s)):
            z[row, places[: int(len(places) * share[row])]] = model.mask_index
    p = student(z_t, -(1 - share_t).log())
    with torch.no_grad():
        q = target(z_s, -(1 - share_s).log())
    rows = (z_t == model.mask_index).nonzero().tolist()
    assert any(z_s[b, i] == x0[b, i] for b, i in rows) and (z_s == model.mask_index).any()
    kl = ce = 0.0
    for b, i in rows:
        soft_p, soft_q = (x[b, i].div(2).softmax(-1) for x in (p, q))
        kl = kl + 4 * (soft_q * (soft_q / soft_p).log()).sum() / len(rows)
        ce = ce - p[b, i].softmax(-1)[x0[b, i]].log() / len(rows)
    done = step % 3 / 3
    weight = 0.9 if done < 0.1 else 0.5 + 0.2 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
    terms = [w * min(x, 0 * x + ceiling) for w, x in ((weight, kl), (1 - weight, ce))]
    beyond = [x.item() > ceiling for x in (kl, ce)]
    assert beyond == {99.0: [False, False], 3.0: [False, True], 1e-3: [True, True]}[ceiling]
    assert (parts.distil_rows, parts.reveal_rows) == (len(rows), 0)
    assert int(model.count_tokens(valid, parts)) == len(rows)
    both = torch.stack([parts.distil, parts.reveal])
    torch.testing.assert_close(both, len(rows) * torch.stack(terms).detach())
    assert_contract(found, [len(rows) * sum(terms)])


def test_mmd(config):
    """Draws, features of a whole network, and the score of every draw."""
    alpha, draws, many = 0.05, 2, 6
    given = ("algo.candidates=3", f"algo.draws={draws}", f"algo.rbf_alpha={alpha}", TIMED)
    found = case(config, "mmd", *given, rows=4, step=4)
    model, student, target, x0, valid, parts = found
    mask = model.mask_index
    keeps = 1 - (1 - 1e-3) * sample_times(4, 1e-3, generator=noise("t", 4))[0]
    u = draw_u(4, LENGTH, generator=noise("u", 4))
    own = [counter_generator(1, 4, "draws", row) for row in range(4)]
    v = torch.stack([torch.rand(LENGTH, many, generator=g, dtype=torch.float64) for g in own])
    z_t = torch.where(u > keeps[:, None], mask, x0)
    log_p = losses.subs(student(z_t, -keeps.log()), z_t, mask)
    whole, seen = copy.deepcopy(student), []
    assert whole.load_state_dict(target.state_dict(), strict=False).missing_keys
    whole.blocks[0].register_forward_hook(lambda *given: seen.append(given[-1]))

    def features(row):
        with torch.no_grad():
            whole(row[None], torch.zeros(1))
        return seen.pop()

    tokens, counts = [], (z_t == mask) & (valid > 0)
    for b in range(4):
        places = counts[b].nonzero().flatten().tolist()
        filled = x0[b].repeat(many, 1)
        for k, i in itertools.product(range(many), places):
            filled[k, i] = int((log_p[b, i].exp().cumsum(-1) <= v[b, i, k]).sum())
        real, *fake = (features(row) for row in (x0[b], *filled))
        rewards = [
            reward(real, fake[i : i + draws], counts[b : b + 1], alpha).item()
            for i in range(0, many, draws)
        ]
        for k, i in itertools.product(range(many), places):
            own = rewards[k // draws]
            advantage = own - (sum(rewards) - own) / (len(rewards) - 1)
            scale = int(valid[b].sum()) / (many * len(places))
            tokens.append(-advantage * scale * log_p[b, i, filled[k, i]])
    assert (parts.distil_rows, parts.reveal_rows) == (0, counts.sum())
    assert_contract(found, tokens)


def test_dcd(config):
    """From Gaussian latents, of which the views are the arg max."""
    given = ("algo.tau0=0.8", "algo.delta0=0.25")
    found = model, student, target, x0, valid, parts = case(config, "dcd", *given, rows=4, step=4)
    size = model.vocab_size
    t, s = sample_times(4, 0.5, generator=noise("t", 4))
    u = draw_u(4, LENGTH, generator=noise("u", 4))
    others = torch.randint(size - 1, (4, LENGTH), generator=noise("other token", 4))
    # A vector of noise that has this u and this j*: the rest far below.
    eps = torch.full((4, LENGTH, size), -1e3, dtype=torch.float64)
    eps.scatter_(-1, x0[..., None], 0.0)
    j = others + (others >= x0)
    eps.scatter_(-1, j[..., None], NoiseGap(size).icdf(u).double()[..., None])
    one_hot = torch.nn.functional.one_hot(x0, size)
    logs = []
    for time, net, tau in ((t, student, 1.0), (s, target, 0.8)):
        gamma = (-4 + 5 * time)[:, None, None]
        w = (1 + gamma.exp()).rsqrt() * one_hot + (1 + (-gamma).exp()).rsqrt() * eps
        alpha = duo_transform(torch.sigmoid(-gamma.flatten()).sqrt(), size)
        logs.append((net(w.argmax(-1), -alpha.log()) / tau).log_softmax(-1))
    p, q = logs[0], logs[1].detach()
    assert (parts.distil_rows, parts.reveal_rows) == (valid.sum(), 0)
    assert_contract(found, (p.exp() * (p - q)).sum(-1)[valid > 0])
