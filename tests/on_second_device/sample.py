"""Samplers by name, all of their noise on the device."""

import sys

import torch
from enumeration import MASK, draw_on

from mdlm_mcd import sampling

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
        drawn = draw_on("gpu:0", name, generator=generator, **how)
        assert drawn.device.type == "gpu" and (drawn.cpu() < MASK).all()

latent = sampling.Latent(3)  # the same on every device
there, here = (draw_on(d, "locked", latent=latent) for d in ("gpu:0", "cpu"))
assert torch.equal(there.cpu(), here)
