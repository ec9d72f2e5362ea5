"""What can go wrong, by what a user can do about it.

The sentences themselves stand where they are raised. An entry gathers those that have
the same cause: `says` are pieces of them, in which an ellipsis stands for anything.
`docs/errors.py` puts the two together.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """slug: stable, a heading of `docs/errors.md`. also: sentences of several parts,
    which `docs/errors.py` does not find in the source.
    """

    slug: str
    meaning: str
    remedy: str
    says: tuple[str, ...]
    also: tuple[str, ...] = ()


# fmt: off
SETTINGS = (
    Entry("unknown-key",
          "A key that nothing reads, mostly a typo: it would change nothing, "
          "unnoticed.",
          "Take the key that is suggested. A key that a fork of a host reads is "
          "known when one of the other files in its `configs/algo` has it.",
          ("names no key of the config", "is read neither by", "changes nothing, since",
           "is a section within another", "is a key that nothing reads",
           "is never read: give", "is no key of a sampler",
           "is a checkpoint's: name it with")),
    Entry("override",
          "What stands on the command line is not key=value as Hydra reads it, or "
          "names a group twice.",
          "Quote a value with = , : or brackets in it, for Hydra and for the shell: "
          "'key=\"a=b.ckpt\"'. A group takes a name; ~logger leaves it out.",
          ("cannot be read as key=value", "Hydra cannot read these overrides",
           "a group that the config has already takes no plus",
           "has a carriage return", "has the control character")),
    Entry("unusable-config",
          "Parts of the config do not make a trainer, a logger or a class, or cannot "
          "be read: a key was taken out, or a ${...} names nothing.",
          "The sentence has the key or the file, and in brackets what OmegaConf, Hydra "
          "or Lightning say of it.",
          ("cannot be read as a config", "Hydra cannot begin with these settings",
           "name a config that is there", "cannot be made of its settings",
           "Lightning refuses these settings", "is not in the config, and is read here",
           "the config cannot be read here", "names no class (",
           "is no LightningModule")),
    Entry("unknown-value",
          "A name that is none of those a key takes.",
          "Choose one of those that the sentence lists.",
          ("is unknown…hoose one of", "does not work with …: choose one of",
           "is not for … models here", "is not in this host: choose one of",
           "algo is empty: name one",
           "is no option of a sampler")),
    Entry("out-of-range",
          "A number that the key does not take, or what is no number.",
          "Numbers may be written as fractions, like 1/512.",
          ("is no number: write it like", "is out of range: give", "--seed …: give",
           "is not shared evenly by model.n_heads",
           "must be a whole number of at least 1",
           "must be a finite number", "algo.delta0=… must be positive",
           "algo.growth=… must be positive", "must be a number of nats",
           "algo.head_chunk=… must be at least 1", "is no decay: choose a number")),
    Entry("delta-beyond-schedule",
          "delta, the gap between the student's time and the teacher's, grows from "
          "round to round and has to stay below 1, the length of the schedule.",
          "delta0 * growth^(rounds - 1) < 1: lower one of the three.",
          ("grows to delta=", "leaves no room for t in")),
    Entry("tau-not-positive",
          "The teacher's temperature falls from round to round and has to stay "
          "positive.",
          "tau0 - (rounds - 1) * tau_step > 0: raise tau0, or lower one of the "
          "others.",
          ("falls by algo.tau_step",)),
    Entry("steps-and-rounds",
          "The trainer stops before the last round, or goes on after it.",
          "trainer.max_steps = algo.rounds * algo.steps_per_round, and nothing that "
          "ends the run before, but trainer.max_time for a run in slices.",
          ("is not algo.rounds * algo.steps_per_round", "lies outside the … rounds",
           "ends the run after …", "ends a run after its first", "The run ended at")),
    Entry("wrong-model",
          "The method is for another kind of model: DCD for uniform-state ones, the "
          "others for masked ones under SUBS.",
          "Take the algo that fits the model, and leave what it sets for the host.",
          ("does not fit algo=…, which needs", "lets an AR model see what it")),
    Entry("wrong-host",
          "The method is for a model that this host's code does not have: MDLM's has "
          "no uniform-state model.",
          "Use a host in Duo's layout, or the embedded one, for algo=dcd.",
          ("needs …code has none",)),
    Entry("noise-schedule",
          "alpha_t, a token's chance to be visible, has to fall from about 1 at t = "
          "0 to about 0 at t = 1, at every step of the way.",
          "Leave the host's log-linear schedule, or take the teacher's.",
          ("keeps a token visible with a chance", "keeps alpha_t=",
           "algo.gamma_max=… must be finite")),
    Entry("average-as-teacher",
          "algo.snapshot=ema takes the student's average for a teacher, and the run "
          "has none.",
          "Set training.ema, or algo.snapshot=raw.",
          ("algo.snapshot=ema takes",)),
    Entry("law-of-u",
          "u_step is the step of a lattice or the base of an order; other laws have "
          "none.",
          "docs/samplers.md says which law takes which step.",
          ("means nothing to …u_law=iid", "is no step: give a finite number",
           "is no base of an order", "u_step=auto fits a lattice",
           "u_step=auto is fitted to a corpus")),
    Entry("sampler-options",
          "An option of a sampler is out of range, or is another sampler's.",
          "docs/samplers.md has each sampler's options.",
          ("steps=… must be at least 1", "top_p=… must lie within",
           "greedy_tail=… must not be negative", "temperature=… must be positive: one",
           "score_noise=… must not be negative", "does not share the tokens between",
           "means nothing to sampler=", "guides the host's own samplers alone")),
    Entry("precision",
          "Weights in half precision do not take steps as small as those of "
          "distillation; samples drawn in float32 flatter generative perplexity.",
          "trainer.precision=bf16 keeps weights in float32; our samplers draw in "
          "float64.",
          ("keeps the weights in half precision", "this model is sampled in float32")),
)

RUNS = (
    Entry("batch-size",
          "A step would see fewer or more rows than loader.global_batch_size says, "
          "since hosts round up what processes and micro-batches cannot share "
          "evenly.",
          "global_batch_size = batch_size * processes * accumulated batches.",
          ("is less than a row for each of", "is not what a step would see")),
    Entry("sharding",
          "What needs whole weights, where strategy=fsdp has spread them over the "
          "processes; or a teacher to be spread without it.",
          "strategy=ddp leaves every process all weights (several_processes.md).",
          ("algo.teacher_placement=sharded spreads", "and strategy=fsdp shards them",
           "shards the weights in a way", "strategy.state_dict_type=sharded writes")),
    Entry("not-writable",
          "A place for what the command leaves behind cannot be made or written, or "
          "holds what this command did not write.",
          "Name a place of yours; a path that goes through a file is none.",
          ("cannot be written (", "cannot be made (", "is a file: name a folder",
           "is a folder: name a file", "--out is empty", "no home folder is known",
           "cannot be read (…): name another.", "was not written by this command")),
    Entry("disk-full",
          "Three checkpoints (the last, the one before, and one that is written), each "
          "of student, average, Adam's moments and teacher, would not fit on the disk. "
          "What a run that goes on has of them is not asked for again.",
          "Make room, or point checkpointing.save_dir elsewhere.",
          ("GiB left, and", "takes no checkpoint", "The disk takes no more")),
    Entry("diverged",
          "The loss is not finite, or far above what knowing nothing costs.",
          "docs/choosing_a_loss.md says why algo.loss=kl_bwd does this.",
          ("where at most … was to be expected",),
          ("algo.loss=… is … nats per token learnt at step … (round …, delta=…, "
           "tau=…), where at most … was to be expected: lower optim.lr, or set "
           "algo.guard=warn to go on.",)),
    Entry("teacher-changed",
          "The teacher has to stay what it was when its round began, and to be the "
          "same in all processes.",
          "Look for a callback, or for code of yours, that writes to it, or to the "
          "weights of some processes alone.",
          ("is not what it was when the round began",
           "begins with other weights on process")),
    Entry("resume",
          "The checkpoint that the run would go on from belongs to another run, is no "
          "checkpoint of a run, or not all processes have it.",
          "Name another folder for the new run, or give the settings of the old one.",
          ("so there is no distillation to resume", "Name another checkpoint, or start",
           "was written by a run with", "was written by this run and is gone",
           "is there for some processes and not for others")),
)

WEIGHTS = (
    Entry("no-teacher",
          "A distillation starts from a trained model, and none is named.",
          "algo.teacher_path=FILE, a Hugging Face folder or org/name.",
          ("algo.teacher_path is empty", "give algo.teacher_path=CHECKPOINT")),
    Entry("no-such-checkpoint",
          "There is nothing under the name, or something else than a checkpoint.",
          "A relative path starts at the folder the command is given in.",
          ("is no file: name", "is a folder: name a checkpoint in it",
           "is no path: name one checkpoint", "is not there: ",
           "cannot be opened (…): install what its", "is a folder without")),
    Entry("unreachable",
          "A name on the Hugging Face Hub is neither in the cache nor to be had: no "
          "network, no such name, or no right to it; or the installed libraries do not "
          "read what is there.",
          "Check name and network, or fetch it once elsewhere and name the folder.",
          ("neither on this disk nor could it be fetched",
           "the host asked the Hugging Face Hub", "=… cannot be loaded (",
           "--tokenizer … cannot be loaded (",
           "cannot be opened as a Hugging Face model",
           "_split=… cannot be read (", "cannot encode the"),
          ("data.tokenizer_name_or_path=… cannot be loaded (…): check the network, "
           "give the folder or the Hub name of a tokenizer that the installed "
           "transformers and tokenizers read, or bpe to train one.",
           "--tokenizer … cannot be loaded (…): the same.",
           "eval.gen_ppl_eval_model_name_or_path=… cannot be loaded (…): check the "
           "network, or give the folder of a causal language model with its tokenizer.",
           "evaluator=… cannot be loaded (…): give the folder or the Hub name of a "
           "causal language model with its tokenizer.",
           "eval.checkpoint_path=… cannot be opened as a Hugging Face model (…): name "
           "a folder or a Hub model, or set algo.backbone=dit.",
           "data.…=… with data.…_split=… cannot be read (…): check name, split and "
           "network, and that files are whole, of the same columns.",
           "data.tokenizer_name_or_path=… cannot encode the text (…): choose another "
           "tokenizer.",
           "evaluator=… cannot encode the text (…): choose another.")),
    Entry("unreadable-checkpoint",
          "The file is no checkpoint, is cut short, or holds what is not read: "
          "nothing in a checkpoint is run.",
          "Fetch it again, or export it where it came from (docs/weights.md).",
          ("cannot be read as a PyTorch checkpoint", "cannot be read as safetensors",
           "holds … twice, with", "holds no `state_dict`", "holds no tensors",
           "is no JSON", "points out of its folder", "a part of its weights",
           "holds a config that cannot be used", "of which no model can be made",
           "it is no whole model of that kind", "does not open as tensors and plain",
           "holds an EMA that is no list of", "of weights out of … stored ones",
           "which they do not divide into even parts",
           "holds weights that are not finite")),
    Entry("other-shapes",
          "The checkpoint is of a model of another size or vocabulary.",
          "Train with the teacher's own `model` and `data` settings.",
          ("does not fit this model", "attention heads, and this",
           "holds an EMA of … tensors", "holds an EMA whose tensor",
           "and data.tokenizer_name_or_path makes one of")),
    Entry("no-average",
          "The checkpoint has no EMA, and one is asked for.",
          "algo.init_from=raw for a teacher; training.ema=0 where a model is opened.",
          ("holds no EMA",)),
    Entry("other-process",
          "The checkpoint's own config says that it is another kind of model.",
          "DCD takes uniform-state models, the others masked ones under SUBS.",
          ("was trained under parameterization=",)),
    Entry("other-conditioning",
          "The teacher is conditioned on time and the student is not, or the other "
          "way round.",
          "Give the run the teacher's own time_conditioning.",
          ("was trained with time_conditioning=",)),
    Entry("other-length",
          "The student's rows are longer than any that the teacher has seen. "
          "(Shorter ones are only warned of.)",
          "model.length of the teacher, or a teacher trained further at yours.",
          ("was trained on rows of",)),
)

DATA = (
    Entry("too-little-text",
          "The text does not fill a row for each process, or leaves none to hold "
          "out.",
          "Give more text, or a smaller model.length.",
          ("rows of model.length=…, too few for", "has no room between BOS and EOS",
           "is a stream without a row", "gives not one batch",
           "rows for … processes: give more text",
           "of the standard library: raise it",
           "data.…=… hold no text", "hold 1 distinct document",
           "hold only documents of")),
    Entry("text-files",
          "A file of text is missing, is no UTF-8, has no such column, or no text "
          "in it.",
          "Relative paths start at the folder the command is given in.",
          ("=[] names no file", "matches no file", "cannot be read as UTF-8",
           "for data.text_key=…, which is no text", "is no column of",
           "delete that file", "and the batches have no `labels`"),
          ("data.…: … cannot be read as UTF-8 (…): name a file that can, or convert "
           "it, e.g. with iconv -t utf-8.",
           "data.cache_dir=…: … cannot be read (…): delete that file, which is then "
           "made anew.")),
    Entry("bpe",
          "The tokenizer that the embedded host trains is for its own text, and has "
          "a token for each byte.",
          "data.vocab_size=259 or more, with data=stdlib or data=textfile.",
          ("data.vocab_size=… is too small", "bpe is not trained on")),
    Entry("special-tokens",
          "The tokenizer lacks a token to begin or to end a row with, its mask is not "
          "in the model's vocabulary, or the text holds the mask or a token beyond it.",
          "gpt2 has these tokens; a mask is added where there is none.",
          ("has neither a … nor a", "has mask token", "holds token"),
          ("data.…=… holds token … (…), which is the model's mask: take its text out, "
           "or choose another data.tokenizer_name_or_path.",)),
    Entry("missing-package",
          "An optional package is not installed.",
          "pip install the extra that the sentence names.",
          ("takes the package datasets", "needs the package mauve-text",
           "needs matplotlib")),
)

HOSTS = (
    Entry("no-host",
          "The folder is no clone of Duo or MDLM, or lacks a part of one.",
          "Name the folder in which the clone's main.py is.",
          ("holds no host this plugin knows", "cannot be read as Python",
           "it has to be a whole clone", "--host … is no folder")),
    Entry("local-edits",
          "The host was changed where our patch would go, and is left alone.",
          "Make the few lines' change by hand (patches/README.md).",
          ("has local edits where",)),
    Entry("not-patched",
          "The host's main.py would not train what algo._target_ names.",
          "`mdlm-mcd patch .` once, or `mdlm-mcd run` in place of `python main.py`.",
          ("not applied, so python main.py does", "does not look at algo._target_")),
    Entry("plugin-not-seen",
          "Hydra does not find our configs, or finds the host's under the same name.",
          "pip install this package into the environment that runs the host.",
          ("does not see the plugin", "of the host wins over ours")),
    Entry("host-requirements",
          "The host's own requirements are not installed.",
          "Install them as its README says.",
          ("not installed here: install its own",)),
    Entry("no-flash-attn",
          "The public hosts import flash-attn and expect CUDA.",
          "`mdlm-mcd run` supplies stand-ins (docs/without_cuda.md).",
          ("so python main.py cannot import its models", "no CUDA: start with")),
)

COMMANDS = (
    Entry("export-exists",
          "The folder to export to is there already.",
          "--overwrite replaces an export, and nothing else.",
          ("OUT=… exists", "so --overwrite does not replace it")),
    Entry("checkpoint-is-silent",
          "The checkpoint does not say something of its model, or the command line "
          "says otherwise.",
          "Give the flag that the sentence names, or leave it out.",
          ("does not say its", "leave that flag out")),
    Entry("cannot-be-sampled",
          "The checkpoint is no masked model, its schedule is not known, or the model "
          "is conditioned on time and was called without alpha_t.",
          "Only masked models are exported and swept. Pass alpha_t on.",
          ("so it is no masked DiT", "which is not known here",
           "is no schedule from 1 to 0", "lacks alpha_t")),
    Entry("other-tokenizer",
          "Model and tokenizer have vocabularies of different sizes.",
          "--tokenizer with the one the model was trained with.",
          ("makes a vocabulary of", "and its tokenizer makes one of",
           "--tokenizer bpe is the embedded host's own")),
    Entry("grid",
          "A point of the grid cannot be sampled.",
          "`mdlm-mcd sweep --help` has the ranges.",
          ("and --top-p …: steps must be", "--num-samples … and --batch-size",
           "--bound-rows …: an interval")),
    Entry("two-of-a-name",
          "Rows of two checkpoints would stand under one name.",
          "LABEL=CKPT tells them apart.",
          ("Two checkpoints are called", "holds rows of a model")),
    Entry("gpu-memory",
          "The device's memory does not hold a batch of samples (`ancestral` and "
          "`confidence` project every masked token, `sparse` those that open), or of "
          "texts before the evaluator, which takes 16 at most.",
          "A smaller --batch-size; what was measured is kept. Its noise is another, so "
          "models measured before and after are not compared draw by draw.",
          ("takes more memory than",)),
    Entry("no-cuda",
          "The machine has no such device.",
          "--device cpu.",
          ("no CUDA device is there", "--device … cannot be used")),
    Entry("held-out-text",
          "There is no text, or too little, to measure on.",
          "--corpus FILE with text that the models have not seen.",
          ("does not name text that is at hand", "--corpus holds no row of",
           "corpus of at least 2 rows", "needs at least … sample(s) of",
           "metrics need at least 2 samples", "mauve needs at least … texts")),
    Entry("evaluator",
          "The evaluator cannot score these samples.",
          "One of the samples' tokenizer and length, or one of transformers.",
          ("--evaluator … has a vocabulary", "which gives no text a likelihood",
           "was trained on … tokens, and the samples",
           "has a context of … tokens and a sample", "tokens and is given token"),
          ("evaluator=… has a context of … tokens and a sample …: set context=… to "
           "score it in windows, or choose an evaluator with a longer context.",
           "evaluator=… has a vocabulary of … tokens and is given token …: its "
           "tokenizer is another model's, or the samples need retokenize=True.")),
    Entry("results-file",
          "A line of a results file is not what a sweep writes.",
          "Take the line out, or sweep again.",
          ("is no row of results", "has schema …, and", "it is no row of a sweep",
           "is of the wrong kind", "has to be above 0", "has to be an object with",
           ": metrics.….… = … is no number", "name a results file",
           "holds no row of results")),
    Entry("not-comparable",
          "Rows measured in different ways do not belong into one table.",
          "Report them apart, or mark them with --force.",
          ("such figures are not compared", "no table can hold both",
           "has another checkpoint under the name")),
    Entry("report-options",
          "The page would compare with a model that is not there.",
          "Name a model of the results.",
          ("is no model of these results",)),
    Entry("demo",
          "A stage of the demo stopped, or the folder holds another demo.",
          "The same command goes on; the log in the folder has the stage's own "
          "words.",
          ("The demo's … stopped at", "holds a demo with another")),
)

# Of functions called with what no command gives them.
LIBRARY = Entry("arguments",
      "Arguments of functions, for those who use the package as a library.",
      "The docstring of the function has shapes and ranges.",
      ("names a distiller, but no host it could train", "max_lag=… needs rows",
       "is no precision to draw in", "prompt of shape", "prompt holds ids",
       "mask_index=… is none of", "is given beside a latent", "samples of shape",
       "context=… between", "cannot be told to share", "is given texts: leave",
       "is given ids and no tokenizer", "set retokenize=True", "finds no token to",
       "are nothing but EOS", "look for empty samples", "are not finite): look",
       "cannot be resampled together", "an interval needs at least 2 samples",
       "num_classes=… …: give the", "which is not finite: draw it",
       "does not fit …: give one id per", "give token ids as int64",
       "held-out tokens …: give", "valid has shape", "valid leaves no token",
       "and levels, of which there are", "does not end in num_classes",
       "has dtype …: give real numbers", "does not make a tensor: give",
       "give a floating-point torch.Tensor", "broadcast with tokens of shape"))
# fmt: on

SECTIONS = {
    "Settings": SETTINGS,
    "Runs": RUNS,
    "Teachers and checkpoints": WEIGHTS,
    "Text and tokenizers": DATA,
    "Hosts": HOSTS,
    "Other commands": COMMANDS,
    "In Python": (LIBRARY,),
}
