"""Samplers by name, all of their noise on the device."""

import sys

import torch

from mdlm_mcd import sampling

table = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))


def draw(name, device, **how):
    def denoise(z, rows):
        return table.to(z.device)[rows.nonzero()[:, 1]]

    return sampling.sample(
        name,
        denoise,
        5,
        12,
        4,
        alpha=lambda t: 1 - t,
        mask_index=6,
        vocab_size=7,
        device=device,
        **how,
    ).tokens


certain = dict(score="raw", threshold=0.3, max_tokens=3, block=5, spacing=3)
own = {
    "ancestral": [{"remask": 0.5}],
    "confidence": [certain | dict(eos_after=0.5, eos_index=1), dict(spacing=3)],
    "sparse": [{"u_law": "lattice", "u_step": 1 / 4}],
    "locked": [{"u_law": "lattice", "u_step": 1 / 4}],
}
for name in sys.argv[1:]:
    for how in (
        {},
        {"dtype": torch.float32},
        {"top_p": 0.9, "temperature": (1.0, 0.5), "greedy_tail": 1},
        *own.get(name, []),
    ):
        generator = torch.Generator("gpu:0").manual_seed(1)
        drawn = draw(name, "gpu:0", generator=generator, **how)
        assert drawn.device.type == "gpu" and (drawn.cpu() < 6).all()

latent = sampling.Latent(3)  # the same on every device
there, here = (draw("locked", d, latent=latent) for d in ("gpu:0", "cpu"))
assert torch.equal(there.cpu(), here)
