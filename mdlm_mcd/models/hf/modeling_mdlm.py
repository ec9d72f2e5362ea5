"""A masked diffusion language model for `transformers.AutoModelForMaskedLM`.

Needs torch, transformers and einops. `dit.py`, the network itself, lies beside this file.
"""

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from .configuration_mdlm import MDLMConfig
from .dit import DIT, Rotary


class MDLM(PreTrainedModel):
    """Raw logits (batch, length, vocab_size), before SUBS, as the hosts expect them.

    Two ways to call it: `model(input_ids=ids)` returns a `MaskedLMOutput`, and
    `model(x, sigma)`, the hosts' way of calling a backbone, a plain tensor.
    """

    config_class = MDLMConfig
    base_model_prefix = "mdlm"
    main_input_name = "input_ids"

    def __init__(self, config: MDLMConfig):
        super().__init__(config)
        sizes = {
            "hidden_size": config.hidden_dim,
            "cond_dim": config.cond_dim,
            "n_blocks": config.n_blocks,
            "n_heads": config.n_heads,
            "dropout": config.dropout,
        }
        self.backbone = DIT(
            {"model": sizes, "algo": {"causal_attention": False}}, config.vocab_size
        )
        self.post_init()

    def _init_weights(self, module):
        # The network initialises itself. Only what no file has to hold is computed
        # again: transformers may have built the model without memory behind it.
        if isinstance(module, Rotary):
            module.inv_freq.copy_(module.frequencies())

    def forward(
        self,
        x=None,
        sigma=None,
        class_cond=None,
        weights=None,
        *,
        input_ids=None,
        timesteps=None,
        attention_mask=None,
        return_dict=None,
    ):
        """x, sigma: tokens (batch, length), -log alpha_t (batch,) -> a tensor.

        input_ids, timesteps: the same -> MaskedLMOutput, or with return_dict=False a tuple.
        Timesteps are zero, and what is given is not used, unless `config.time_conditioning`. Raises
        ValueError for padding, which the model would attend to, and for missing inputs.
        """
        if input_ids is None:
            if x is None or sigma is None:
                raise ValueError("Give input_ids, or tokens and sigma in this order.")
            return self.backbone(x, sigma, class_cond, weights)
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("This model attends to all positions: leave out padding.")
        if not self.config.time_conditioning:
            timesteps = torch.zeros(len(input_ids), device=input_ids.device)
        elif timesteps is None:
            raise ValueError("This model is conditioned on time: give timesteps.")
        logits = self.backbone(input_ids, timesteps)
        if return_dict is None:
            return_dict = self.config.return_dict
        return MaskedLMOutput(logits=logits) if return_dict else (logits,)
