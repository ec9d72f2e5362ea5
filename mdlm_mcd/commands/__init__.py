"""The subcommands of `mdlm-mcd`."""
