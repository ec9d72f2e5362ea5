"""A second device without the hardware: its tensors keep their data on the CPU.

    python tests/second_device.py SCRIPT [ARGUMENT ...]

runs a script in which `gpu:0` is a device. What CUDA refuses is refused: tensors of
both devices in one operation (numbers and indices apart), a CPU generator for a draw on
the device, NumPy. Kernels and autocast are the CPU's, so it shows where tensors are and
not what a GPU computes.
"""

import runpy
import sys

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cpu")  # until `install`
OURS = 1 << 63  # seeds of the device's generators begin here
# Copies between devices, and indices of the CPU, are allowed.
ACROSS = {"aten::copy_", "aten::_to_copy"}
ACROSS |= {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class There(torch.Tensor):
    """A tensor of the device; `raw` is its data on the CPU.

    waits: how often, so far, the program would have waited for what the device computes: to
    read a number, or to learn the size of a result.
    """

    waits = 0

    @staticmethod
    def __new__(cls, raw):
        how = dict(strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype)
        return torch.Tensor._make_wrapper_subclass(cls, raw.shape, device=DEVICE, **how)

    def __init__(self, raw):
        self.raw = raw.detach()

    def tolist(self):
        There.waits += 1
        return self.raw.tolist()

    def numpy(self, **_):
        raise TypeError("a tensor on the device has no NumPy array")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


class Everywhere(TorchDispatchMode):
    """For tensors that are made on the device from none."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of the device. Dispatch forgets its class and keeps its seed."""

    device = property(lambda self: DEVICE)

    def __init__(self):
        self.manual_seed(0)

    def manual_seed(self, seed):
        return super().manual_seed(seed % OURS + OURS)


def run(op, args, kwargs):
    """One operation, where its tensors are. Raises RuntimeError where CUDA would."""
    name = op._schema.name
    flat = pytree.tree_leaves((args, kwargs))
    there = [x for x in flat if isinstance(x, There)]
    here = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, There)]
    device = kwargs.get("device")
    on = bool(there) if device is None else torch.device(device).type == DEVICE.type
    if there and any(x.ndim for x in here) and name not in ACROSS:
        raise RuntimeError(f"{name} takes tensors of two devices")
    if there and name in ACROSS - {"aten::copy_", "aten::_to_copy"}:
        values = args[2:3] if "put" in name else ()
        if any(not isinstance(x, There) and x.ndim for x in (args[0], *values)):
            raise RuntimeError(f"{name} takes tensors of two devices")
    for x in flat:
        if isinstance(x, torch.Generator) and (x.initial_seed() >= OURS) != on:
            raise RuntimeError(f"{name} takes a generator of another device")
    if device is not None and on:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = pytree.tree_map_only(There, lambda x: x.raw, (args, kwargs))
    masks = [x for x in there if x.dtype == torch.bool and name in ("aten::index", "aten::nonzero")]
    read = name == "aten::_local_scalar_dense" or (name == "aten::_to_copy" and not on)
    There.waits += bool(there and (read or masks or name == "aten::nonzero"))
    if name == "aten::copy_":
        plain_args[0].copy_(plain_args[1])
        return args[0]
    if name == "aten::_local_scalar_dense":
        return plain_args[0].item()
    known = {id(x.raw): x for x in there}

    def back(x):
        if not on or not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else There(x)

    return pytree.tree_map(back, op(*plain_args, **plain_kwargs))


def install() -> None:
    """Make `gpu:0` a device of this process, for good."""
    global DEVICE
    from torch.utils import backend_registration

    backend_registration._setup_privateuseone_for_python_backend("gpu")
    DEVICE = torch.device("gpu", 0)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    generator = torch.Generator

    class Either(type):
        def __instancecheck__(cls, x):
            return isinstance(x, generator)

    class Choose(metaclass=Either):
        def __new__(cls, device="cpu"):
            there = torch.device(device).type == "gpu"
            return Generator() if there else generator(device)

    torch.Generator = Choose

    def moved(make):
        def made(*args, device=None, **kwargs):
            out = make(*args, **kwargs)
            if device is None or (found := out.to(device)).device == out.device:
                return out
            There.waits += 1  # memory that is not pinned
            return found

        return made

    torch.tensor, torch.as_tensor = moved(torch.tensor), moved(torch.as_tensor)
    Everywhere().__enter__()


if __name__ == "__main__":
    install()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
