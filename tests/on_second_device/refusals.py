"""What the stand-in for a device refuses, and what it allows."""

import torch

here, there = torch.arange(3.0), torch.arange(3.0, device="gpu:0")
assert there.device == torch.device("gpu", 0) and (there + 1).device == there.device
assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4]  # a number of the CPU
assert there[torch.tensor([2])].item() == 2  # an index of the CPU
assert torch.equal(there.cpu(), here) and torch.equal(here.to("gpu:0"), there)
there[0] = 5
assert there.cpu()[0] == 5 and here[0] == 0

for refused in (
    lambda: here + there,
    lambda: here[there.long()],
    lambda: torch.cat([here, there]),
    lambda: there.index_add_(0, torch.tensor([0]), there[:1]),
    lambda: torch.rand(3, device="gpu:0", generator=torch.Generator()),
    lambda: torch.rand(3, generator=torch.Generator("gpu:0")),
    lambda: torch.nn.Linear(3, 1)(there),
    there.numpy,
):
    try:
        refused()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit(f"line {refused.__code__.co_firstlineno} passed")
