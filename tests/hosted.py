"""Models of the embedded host, as it opens them itself."""

import torch
from omegaconf import OmegaConf

from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost


def open_model(path, ema=True):
    """A checkpoint's plain model in eval mode, a student's too, and its tokenizer."""
    content = torch.load(path, weights_only=True)["hyper_parameters"]["config"]
    config = OmegaConf.create(content)
    kinds = {"ar": algo.AR, "mean": algo.DUO_BASE}
    cls = kinds.get(config.algo.parameterization, algo.MDLM)
    uniform = cls is algo.DUO_BASE
    config.sampling.predictor = "ancestral" if uniform else "ancestral_cache"
    tokenizer = dataloader.get_tokenizer(config)
    model = minihost.load_from_checkpoint(cls, str(path), config, tokenizer)
    if ema and model.ema:
        model.ema.copy_to(model.backbone.parameters())
    model.ema = None
    return model.eval(), tokenizer
