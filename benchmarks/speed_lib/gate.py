"""A training under remote control: it takes a step, samples or counts when asked to.

`worker.Worker` starts a training whose config names this callback, and talks to it
over two pipes. So runs of several programs, a host's own among them, take their steps in
turn, each in a process whose peak memory is its own. Imported by the hosts.
"""

import json
import os
import resource
import time
import warnings

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode


class Finished(Exception):
    """Ends a training whose figures have been taken."""


class Waits(warnings.catch_warnings):
    """Count how often the program waits for its CUDA device."""

    def __init__(self):
        super().__init__(record=True)

    def __enter__(self):
        self.found = super().__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error):
        torch.cuda.set_sync_debug_mode("default")
        super().__exit__(*error)

    def figures(self) -> dict:
        return {"waits": sum("called a synchronizing" in str(w.message) for w in self.found)}


class Operations(FlopCounterMode):
    """Count floating-point operations."""

    def __init__(self):
        super().__init__(display=False)

    def figures(self) -> dict:
        return {"flop": self.get_total_flops()}


COUNTERS = {"count": Operations, "waits": Waits}


class Gate(L.Callback):
    """Wait for a command before each step; write its figures, a line of JSON each.

    dense: project every token onto the vocabulary, with the full logits stored. commands,
    figures: text files in place of the pipes that SPEED_GATE names. Commands: `step`
    (milliseconds), `count` (a step's floating-point operations), `waits` (for the device, in a
    step), `sample PREDICTOR STEPS` (PREDICTOR@dit: in the package's own network, as `mdlm-mcd
    sample` opens a checkpoint), `ceilings` (of this process), and `stop`, which is also what the
    end of the file means.
    """

    def __init__(self, dense: bool = False, commands=None, figures=None):
        self.dense, self.counter = dense, None
        self.commands, self.figures = commands, figures

    def on_train_start(self, trainer, module):
        if trainer.global_rank == 0:  # the others follow its all-reduce
            if self.commands is None:
                read, write = map(int, os.environ["SPEED_GATE"].split(","))
                self.commands, self.figures = os.fdopen(read), os.fdopen(write, "w")
            parameters = sum(p.numel() for p in module.backbone.parameters())
            self.write(parameters=parameters)
        if self.dense:
            from mdlm_mcd import head

            head.output_projection = lambda backbone: None

    def write(self, **figures):
        self.figures.write(json.dumps(figures) + "\n")
        self.figures.flush()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.commands is None:
            return
        while True:
            name, *how = self.commands.readline().split() or ["stop"]
            if name == "stop":
                raise Finished
            if name == "sample":
                self.sample(module, how[0], int(how[1]))
            elif name == "ceilings":
                self.write(**ceilings(module.device))
            else:
                break
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.start = clock(module.device)
        if name in COUNTERS:
            self.counter = COUNTERS[name]()
            self.counter.__enter__()

    def on_train_batch_end(self, trainer, module, *args):
        if self.commands is None:
            return
        if self.counter is None:
            figures = {"ms": 1e3 * (clock(module.device) - self.start)}
        else:
            self.counter.__exit__(None, None, None)
            figures, self.counter = self.counter.figures(), None
        self.write(**figures, gib=peak(module.device))

    def sample(self, module, predictor: str, steps: int):
        """Time the host's own sampler, or ours, of a batch with the weights as they are."""
        module.eval()
        how, own = module.config.sampling, module.backbone
        predictor, _, network = predictor.partition("@")
        if network:
            module.backbone = in_dit(module).eval()
        before = how.predictor, module.sampler if hasattr(module, "sampler") else None
        how.predictor = module.sampler = predictor
        evaluations = []
        hook = module.backbone.register_forward_pre_hook(lambda *_: evaluations.append(1))
        start = clock(module.device)
        with torch.no_grad():
            module.generate_samples(module.config.loader.eval_batch_size, num_steps=steps)
        seconds = clock(module.device) - start
        hook.remove()
        module.backbone, how.predictor, module.sampler = own, *before
        module.train()
        self.write(seconds=seconds, evaluations=len(evaluations), gib=peak(module.device))


def in_dit(module):
    """Return a host's network with its weights in the package's DiT."""
    from mdlm_mcd.models.dit import DIT

    config = {"model": module.config.model, "algo": {"causal_attention": False}}
    network = DIT(config, module.vocab_size).to(module.device)
    network.load_state_dict(module.backbone.state_dict())
    return network


def clock(device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(device) -> float:
    """Return the peak memory so far in GiB: of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ceilings(device) -> dict:
    """Measure a device: TFLOP/s of a large product, and TB/s of a large copy."""
    cuda = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if cuda else (2048, torch.float32)
    x = torch.randn(n, n, device=device, dtype=dtype)
    a = torch.randn(1 << (28 if cuda else 26), device=device)
    b = torch.empty_like(a)
    size = 2 * a.numel() * a.element_size()
    rates = {"dtype": str(dtype).removeprefix("torch.")}
    for name, call, work in (
        ("tflops", lambda: x @ x, 2 * n**3),
        ("tb_s", lambda: b.copy_(a), size),
    ):
        times = []
        for _ in range(6):
            start = clock(device)
            call()
            times.append(clock(device) - start)
        rates[name] = 1e-12 * work / min(times)
    return rates
