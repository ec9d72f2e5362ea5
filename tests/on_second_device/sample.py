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


for name in sys.argv[1:]:
    laws = [{"u_law": "lattice", "u_step": 1 / 4}] if name in ("sparse", "locked") else []
    for how in (
        {},
        {"dtype": torch.float32},
        {"top_p": 0.9, "temperature": (1.0, 0.5), "greedy_tail": 1},
        *laws,
    ):
        generator = torch.Generator("gpu:0").manual_seed(1)
        drawn = draw(name, "gpu:0", generator=generator, **how)
        assert drawn.device.type == "gpu" and (drawn.cpu() < 6).all()

latent = sampling.Latent(3)  # the same on every device
there, here = (draw("locked", d, latent=latent) for d in ("gpu:0", "cpu"))
assert torch.equal(there.cpu(), here)
