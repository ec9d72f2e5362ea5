"""Names that MDLM imports; None, as mamba-ssm and transformers write what is missing."""

mamba_inner_fn = selective_scan_fn = None
