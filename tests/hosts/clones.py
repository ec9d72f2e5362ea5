"""Real hosts for tests: found, copied, and run tiny on a CPU, without a network."""

from __future__ import annotations

import array
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from texts import tiny_gpt2
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts.specs import DUO, MDLM, HostSpec, of_folder
from mdlm_mcd.minihost import dataloader

HERE = Path(__file__).parent
# The main.py of the host as it is on disk, with what stands in for missing hardware: in
# place of `python main.py` where there is no flash-attn or CUDA.
PLAIN = """
import os, sys
from mdlm_mcd.hosts import stubs
stubs.install()
sys.path[0] = os.getcwd()
sys.argv[0] = __file__ = os.path.abspath("main.py")
exec(stubs.compiled(__file__))
"""
EXPECTED = ("duo (main)", "duo (ch-1)", "mdlm")
# Forks of theirs, by a class or word that only they have.
FORKS = {
    "scaling-dllms": ("dataloader.py", "class DatasetIterator"),
    "Eso-LMs": ("algo.py", "class EsoLM"),
    "didi-instruct": ("algo.py", "class DiDiInstruct"),
    "remdm": ("diffusion.py", "remdm"),
    "flm": ("algo.py", "class FLM"),
    "candi": ("algo.py", "class CANDI"),
}
LENGTH, VOCAB = 32, 300


def name_of(folder: Path, spec: HostSpec) -> str:
    for name, (file, word) in FORKS.items():
        if file in (*spec.sources, "dataloader.py") and word in (folder / file).read_text():
            return name
    if spec is MDLM:
        return "mdlm"
    # Class labels came with branch main.
    labels = re.search(r"def nll\([^)]*\blabels\b", (folder / "trainer_base.py").read_text())
    return "duo (main)" if labels else "duo (ch-1)"


def find() -> dict[str, Path]:
    """Clones in the folder MDLM_MCD_HOSTS, or that folder itself, by name."""
    where = os.environ.get("MDLM_MCD_HOSTS")
    if not where:
        return {}
    found = {}
    for folder in (Path(where), *sorted(Path(where).iterdir())):
        if (folder / "main.py").is_file():
            try:
                spec = of_folder(folder)
            except ConfigError:
                continue
            found.setdefault(name_of(folder, spec), folder.resolve())
    return found


def make_assets(out: Path, texts: list[str]) -> None:
    """A tokenizer without a mask token, blocks of tokens, a judge with no training."""
    import datasets

    bpe = Tokenizer.from_str(dataloader._train_bpe(texts, VOCAB))
    special = dict(bos_token=dataloader.BOS, eos_token=dataloader.EOS, pad_token=dataloader.PAD)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **special)
    bos, eos, body = tokenizer.bos_token_id, tokenizer.eos_token_id, LENGTH - 2
    stream = [token for text in texts for token in (*bpe.encode(text).ids, eos)]
    starts = range(0, len(stream) - body, body)
    rows = [[bos, *stream[i : i + body], eos] for i in starts]
    for split, part in (("train", rows[32:]), ("validation", rows[:32])):
        # Under this name the hosts find a prepared data set and tokenize nothing.
        columns = {"input_ids": part, "attention_mask": [[1.0] * LENGTH] * len(part)}
        name = f"tiny_{split}_bs{LENGTH}_wrapped.dat"
        datasets.Dataset.from_dict(columns).save_to_disk(out / "data" / name)
    for name in ("tokenizer", "gpt2"):
        tokenizer.save_pretrained(out / name)
    _make_stream(out, rows)
    tiny_gpt2(out / "gpt2", len(tokenizer), context=1024)


def _make_stream(out: Path, rows: list[list[int]]) -> None:
    """The rows in the format of the fork scaling-dllms, and its tokenizer's file."""
    shutil.copy(out / "tokenizer" / "tokenizer.json", out / "tinyllama")
    (out / "stream").mkdir()
    for split, part in (("train", rows[32:]), ("validation", rows[:32])):
        tokens = array.array("H", [token for row in part for token in row])  # uint16, 8 there
        head = b"LITPKDS" + struct.pack("<QBQ", 1, 8, len(tokens))
        (out / "stream" / f"{split}.bin").write_bytes(head + tokens.tobytes())


def start(folder: Path, *command: str, program=sys.executable, **more: str):
    """`python COMMAND` in a folder, offline, where the tests' callbacks are found.

    program: in place of Python; more: variables of its environment.
    """
    path = filter(None, (os.environ.get("PYTHONPATH"), str(HERE)))
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    env = {**os.environ, **dict.fromkeys(offline, "1"), "WANDB_MODE": "offline"}
    env |= {"PYTHONPATH": os.pathsep.join(path), "TOKENIZERS_PARALLELISM": "false"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
    how = dict(text=True, capture_output=True, timeout=600)
    return subprocess.run([program, *command], cwd=folder, env=env, **how)


@dataclass
class Clone:
    """A copy of a clone, as it was or patched, and where its runs are kept."""

    name: str
    spec: HostSpec
    folder: Path
    assets: Path
    runs: Path

    @property
    def own(self) -> list[str]:
        """Return the host's own masked model."""
        return ["algo=mdlm", "sampling.predictor=ancestral_cache"] * (self.spec is DUO)

    def tiny(self) -> list[str]:
        given = f"""
            ~wandb model=small model.hidden_size=32 model.n_blocks=1 model.n_heads=2
            model.length={LENGTH} data=wikitext2 data.train=tiny data.valid=tiny
            data.tokenizer_name_or_path={self.assets}/tokenizer data.cache_dir={self.assets}/data
            loader.global_batch_size=8 loader.eval_global_batch_size=8 loader.num_workers=1
            loader.pin_memory=False trainer.accelerator=cpu trainer.devices=1
            trainer.precision=32 trainer.val_check_interval=6
            ++trainer.check_val_every_n_epoch=null trainer.limit_val_batches=2
            ++trainer.enable_progress_bar=False trainer.log_every_n_steps=1
            lr_scheduler=constant_warmup lr_scheduler.num_warmup_steps=2
            optim.lr=1e-3 training.ema=0.9
            callbacks.checkpoint_every_n_steps.every_n_train_steps=4
            sampling.steps=8 sampling.num_sample_batches=1 eval.generate_samples=False
            eval.compute_generative_perplexity=True
            eval.gen_ppl_eval_model_name_or_path={self.assets}/gpt2
        """.split()
        if self.name == "scaling-dllms":  # its own data, tokenizer and judge
            gone = ("data", "sampling.num_sample_batches", "eval.compute_gen")
            given = [x for x in given if not x.startswith(gone)]
            given += f"""
                data=slim_pajama data.cache_dir={self.assets}/stream loader.n_chunks=1
                data.tokenizer_name_or_path={self.assets}/tinyllama +huggingface.token=null
            """.split()
        return given

    def run(self, name: str, *overrides: str, memory=False, fails=False, sweep=False):
        """One run in `runs/name`; return (its folder, what it printed)."""
        out = self.runs / name
        how = ["-m", "mdlm_mcd.commands.main", "run"] if memory else ["-c", PLAIN]
        how += ["-m", f"hydra.sweep.dir={out}"] if sweep else []
        done = start(self.folder, *how, *self.tiny(), f"hydra.run.dir={out}", *overrides)
        printed = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{name}: {printed[-4000:]}"
        return out, printed


def copy(name: str, source: Path, to: Path, assets: Path, runs: Path) -> Clone:
    shutil.copytree(source, to, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    return Clone(name, of_folder(to), to, assets, runs)


# What runs leave behind ---------------------------------------------------------------


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(path):
    """(weights, all) of a student's file, which opens with torch's own restrictions."""
    saved = torch.load(path, weights_only=True)
    return saved["state_dict"], saved


def nelbo(clone, name, *given):
    """The bound in nats that the host prints, as text."""
    _, printed = clone.run(name, *given, "mode=ppl_eval")
    (nll,) = re.findall(r"val/nll\W+([0-9.]+)", printed)[:1]
    assert 0 < float(nll) < 20
    return nll


def sampled(clone, name, *given):
    """What a run that samples prints."""
    _, printed = clone.run(name, *given, "mode=sample_eval")
    perplexity = re.search(r"[Gg]enerative perplexity:.*?([0-9.]+)", printed)
    assert perplexity and float(perplexity[1]) > 1
    return printed


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def ended_alike(a, b):
    """Students, averages and teachers in the folders of two runs' checkpoints."""
    (whole, one), (again, other) = (weights(x / "round-2.ckpt") for x in (a, b))
    assert one["global_step"] == other["global_step"] == 12
    assert same(whole, again)
    assert same(*(x["mdlm_mcd"]["teacher"]["backbone"] for x in (one, other)))
    for x, y in zip(*(x["ema"]["shadow_params"] for x in (one, other)), strict=True):
        assert torch.equal(x, y)
