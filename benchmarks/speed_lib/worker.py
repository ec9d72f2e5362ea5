"""Start trainings of the minihost and of hosts' clones, and have them step in turn."""

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = ("algo.init_from=scratch", "algo.rounds=1", "algo.steps_per_round=100000")
TEXT = "text.txt"  # in the folder of assets


@dataclass(frozen=True)
class Size:
    """What is trained, on what. vocab: without the mask."""

    device: str = "cpu"
    threads: int = 2
    vocab: int = 50_257
    width: int = 768
    blocks: int = 12
    length: int = 256
    batch: int = 2
    precision: str = "32-true"

    def model(self) -> list[str]:
        """Return the overrides of the network."""
        return f"""
            model.hidden_size={self.width} model.n_blocks={self.blocks}
            model.n_heads={max(1, self.width // 64)} model.cond_dim={min(128, self.width)}
            model.length={self.length}
        """.split()

    def overrides(self, assets: Path) -> list[str]:
        """Return those of every training, whatever its method and its host."""
        return f"""
            {" ".join(self.model())} loader.global_batch_size={self.batch}
            loader.eval_global_batch_size={self.batch}
            trainer.precision={self.precision} trainer.max_steps=100000
            trainer.val_check_interval=100000 trainer.limit_val_batches=0
            trainer.num_sanity_val_steps=0 trainer.gradient_clip_val=1.0 training.ema=0.9999
            trainer.accelerator={"gpu" if self.device == "cuda" else "cpu"}
            data.tokenizer_name_or_path={assets}/tokenizer data.cache_dir={assets}
            optim.lr=1e-6 seed=1
        """.split()

    def method(self, name: str, *more: str) -> tuple[str, ...]:
        """Return the overrides of the host's own training or, of this size, of a distillation."""
        if name == "mdlm":
            return "algo=mdlm", *more
        own = {"mmd": (f"algo.feature_block={self.blocks // 4}",)}
        if self.vocab < 5000:  # which needs more noise
            own["dcd"] = ("algo.gamma_max=2",)
        return f"algo={name}", *ROUNDS, *own.get(name, ()), *more


TINY = {"vocab": 300, "width": 32, "blocks": 2, "length": 32, "batch": 4}
LARGE = {"length": 1024, "batch": 32, "precision": "bf16-mixed"}  # of a GPU


@dataclass
class Worker:
    """One training in a process of its own. Use as a context; commands are `gate.Gate`'s.

    algo: overrides of Hydra that choose the method. clone: the folder of a host's clone;
    None: the minihost.
    """

    size: Size
    assets: Path
    out: Path
    algo: tuple[str, ...]
    clone: Path | None = None
    devices: int = 1

    def command(self) -> list[str]:
        given = self.size.overrides(self.assets)
        given += f"""trainer.devices={self.devices} loader.num_workers=1 loader.pin_memory=false
            hydra.run.dir={self.out} +callbacks.gate._target_=gate.Gate""".split()
        if self.clone is None:
            files = f"data=textfile data.files=[{self.assets}/{TEXT}] ~logger"
            how = ["mdlm_mcd.minihost.main", *files.split()]
        else:
            host = f"""model=tiny data=wikitext2 data.train=tiny data.valid=tiny ~wandb
                eval.generate_samples=False
                eval.gen_ppl_eval_model_name_or_path={self.assets}/gpt2"""
            how = ["mdlm_mcd.commands.main", "run", *host.split()]
        if self.devices > 1:
            given.append("strategy=ddp")
        return [sys.executable, "-m", *how, *given, *self.algo]

    def __enter__(self):
        self.out.mkdir(parents=True)
        (read, tell), (hear, write) = os.pipe(), os.pipe()
        path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(HERE))))
        env = {**os.environ, "SPEED_GATE": f"{read},{write}", "PYTHONPATH": path}
        env |= {"OMP_NUM_THREADS": str(self.size.threads), "HF_HUB_OFFLINE": "1"}
        self.log = (self.out / "log.txt").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.clone or self.out,
            env=env,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            pass_fds=(read, write),
        )
        os.close(read)
        os.close(write)
        self.tell, self.hear = os.fdopen(tell, "w"), os.fdopen(hear)
        self.parameters = self._read()["parameters"]
        return self

    def __exit__(self, *_):
        self.tell.close()  # an end of file stops the training
        self.process.wait()
        self.hear.close()
        self.log.close()

    def ask(self, command: str) -> dict:
        self.tell.write(command + "\n")
        self.tell.flush()
        return self._read()

    def _read(self) -> dict:
        line = self.hear.readline()
        if not line:
            self.process.wait()
            tail = (self.out / "log.txt").read_text("utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"{' '.join(self.command())} ended: {tail}")
        return json.loads(line)


def in_turn(workers: dict[str, Worker], command: str, repeats: int) -> dict[str, list[dict]]:
    """Ask each worker in turn, `repeats` times after one that does not count."""
    found = {name: [] for name in workers}
    for k in range(repeats + 1):
        for name, worker in workers.items():
            figures = worker.ask(command)
            if k:
                found[name].append(figures)
    return found


def median(figures: list[dict], key: str) -> float:
    return statistics.median(row[key] for row in figures)


def make_text(folder: Path, size: Size):
    """Write a word-level tokenizer of the vocabulary's size, and random text; return both."""
    import tokenizers
    import transformers

    vocab = {f"w{i}": i for i in range(size.vocab)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="w1", bos_token="w2", pad_token="w1"
    )
    made.save_pretrained(folder / "tokenizer")
    draw = random.Random(0)
    rows = [
        [draw.randrange(3, size.vocab) for _ in range(size.length)] for _ in range(16 * size.batch)
    ]
    text = "\n\n\n".join(" ".join(f"w{i}" for i in row) for row in rows)
    (folder / TEXT).write_text(text, "utf-8")
    return made, rows


def make_assets(folder: Path, size: Size) -> None:
    """Write what `make_text` does, and the same for clones of the hosts."""
    import datasets
    import transformers

    tokenizer, rows = make_text(folder, size)
    # The hosts open a tokenizer of their evaluator, if they measure with it or not.
    transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1).save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    for split in ("train", "validation"):
        # Under this name the hosts find a prepared data set and tokenize nothing.
        columns = {"input_ids": rows, "attention_mask": [[1.0] * size.length] * len(rows)}
        name = f"tiny_{split}_bs{size.length}_wrapped.dat"
        datasets.Dataset.from_dict(columns).save_to_disk(folder / name)
