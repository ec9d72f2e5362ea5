"""Names of `mamba_ssm` and `causal_conv1d`, which MDLM imports without using them."""

from __future__ import annotations


def _absent(name: str, package: str):
    def missing(*args, **kwargs):
        raise NotImplementedError(
            f"{name} is not here: install {package} (it needs CUDA) to run the Mamba "
            "backbone, or choose backbone=dit."
        )

    missing.__name__ = name
    return missing


mamba_inner_fn = _absent("mamba_inner_fn", "mamba-ssm")
selective_scan_fn = _absent("selective_scan_fn", "mamba-ssm")
selective_state_update = _absent("selective_state_update", "mamba-ssm")
causal_conv1d_fn = _absent("causal_conv1d_fn", "causal-conv1d")
causal_conv1d_update = _absent("causal_conv1d_update", "causal-conv1d")
