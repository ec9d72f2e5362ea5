"""Dense against gathered and chunked head: seconds, peak memory, and their ratios.

    python benchmarks/head.py [--batch 4] [--length 512] [--width 768]
                              [--vocab 50258] [--threads 1] [--repeats 3]

One step of MCD's loss (forward of student and teacher heads, backward to hidden
states and weights), the backbones left out; each way runs in a process of its own,
so that its peak memory is its own. Masks are those of t ~ U(delta, 1], delta = 1/512.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

WAYS = ("dense", "gathered 128", "gathered 1024", "gathered 4096")


def step(way, args):
    """Measure one way in this process; print JSON."""
    import torch

    from mdlm_mcd import coupling, head, losses

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    mask_index = args.vocab - 1
    generator = coupling.counter_generator(0)
    shape = (args.batch, args.length)
    x0 = torch.randint(0, mask_index, shape, generator=generator)
    t, s = coupling.sample_times(args.batch, 1 / 512, generator=generator)
    u = coupling.draw_u(*shape, generator=generator)
    pair = coupling.couple(x0, u, t, s, lambda t: 1 - (1 - 1e-3) * t, mask_index)
    linears = [torch.nn.Linear(args.width, args.vocab) for _ in range(2)]
    linears[1].requires_grad_(False)
    hidden = [torch.randn(*shape, args.width, generator=generator) for _ in range(2)]
    hidden[0].requires_grad_(True)

    def dense():
        with torch.no_grad():
            logits = losses.temper(linears[1](hidden[1]), 0.96)
            teacher = losses.subs(logits, pair.z_s, mask_index)
        student = losses.subs(linears[0](hidden[0]), pair.z_t, mask_index)
        return losses.per_token("hybrid", student, teacher, x0, pair.masked_t, pair.masked_s).sum()

    def gathered(chunk):
        features = [head.HiddenStates(h, linear) for h, linear in zip(hidden, linears, strict=True)]
        return head.supervise(
            "hybrid",
            *features,
            x0,
            pair.masked_t,
            pair.masked_s,
            tau=0.96,
            mask_index=mask_index,
            chunk=chunk,
        ).loss

    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        loss = dense() if way == "dense" else gathered(int(way.split()[1]))
        loss.backward()
        seconds.append(time.perf_counter() - start)
    found = {
        "seconds": statistics.median(seconds),
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "loss": float(loss.detach()),
        "masked": float(pair.masked_t.float().mean()),
    }
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = dict(batch=4, length=512, width=768, vocab=50_258, threads=1, repeats=3)
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        step(args.way, args)
        return
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        results[way] = json.loads(subprocess.check_output(command, text=True, env=env))
    base = results["dense"]
    print(
        f"batch {args.batch} x {args.length}, width {args.width}, vocabulary "
        f"{args.vocab}, float32, {args.threads} thread(s); {base['masked']:.0%} of the "
        f"tokens masked; median of {args.repeats}"
    )
    print(f"{'way':<15}{'seconds':>9}{'ratio':>8}{'peak GiB':>10}{'ratio':>8}")
    for way, r in results.items():
        print(
            f"{way:<15}{r['seconds']:>9.2f}{r['seconds'] / base['seconds']:>8.2f}"
            f"{r['gib']:>10.2f}{r['gib'] / base['gib']:>8.2f}"
        )
        assert abs(r["loss"] / base["loss"] - 1) < 1e-5, "the ways disagree"


if __name__ == "__main__":
    main()
