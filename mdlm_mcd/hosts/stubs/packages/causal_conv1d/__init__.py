"""Names that MDLM imports; None, as mamba-ssm and transformers write what is missing."""

causal_conv1d_fn = causal_conv1d_update = None
