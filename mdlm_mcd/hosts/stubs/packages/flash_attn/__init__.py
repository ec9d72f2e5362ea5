"""What the hosts call of flash-attn, in plain PyTorch on any device.

With the arguments that the hosts give; Python refuses others by name. Unlike the real
functions these take every float type.
"""

from . import flash_attn_interface as flash_attn_interface  # as the real package does
from .flash_attn_interface import flash_attn_qkvpacked_func as flash_attn_qkvpacked_func
