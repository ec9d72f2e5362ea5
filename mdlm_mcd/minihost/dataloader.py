"""Make the minihost's tokenizer and loaders.

`get_tokenizer` and `get_dataloaders` are the two functions the host calls. A
batch is a dict of `input_ids` and `attention_mask`, both int64 (batch, length), and of
pairs also `context_mask`, bool (batch, length), True at BOS and the prompt.
"""

import contextlib
import functools
import itertools
import logging
import os

import numpy as np
import tokenizers
import torch
import transformers
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from ..checkpoints import identity
from ..checkpoints.files import SHIPPED
from ..errors import ConfigError, border, require
from ..models import vocabulary
from . import corpus
from .resumable_loader import RankSampler, ResumableLoader

log = logging.getLogger(__name__)

TEXTS = ("shipped", "stdlib", "prose", "textfile")
LOCAL = (*TEXTS, "textpairs")
BOS, EOS, PAD = SPECIALS = ["<|bos|>", "<|eos|>", "<|pad|>"]


def _train_bpe(texts, vocab_size):
    """Train a byte-level BPE of `vocab_size` entries, special tokens included, as JSON."""
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size, special_tokens=SPECIALS, show_progress=False)
    return bpe.to_str()


def _bpe_tokenizer(data):
    if data.train not in LOCAL:
        raise ConfigError(
            f"data.tokenizer_name_or_path=bpe is not trained on data.train={data.train}"
            ": name a pretrained tokenizer, such as gpt2."
        )
    vocab_size, least = data.get("vocab_size", 1024), 256 + len(SPECIALS)
    wanted = f"at least {least}, the bytes and the special tokens"
    require(vocab_size >= least, "data.vocab_size", vocab_size, wanted)
    texts = corpus.documents(data, "train")
    if data.train == "textpairs":
        texts = list(itertools.chain.from_iterable(texts))
    decides = (vocab_size, corpus.PYTHON, tokenizers.__version__, texts)
    bpe = corpus.cached(
        data.cache_dir,
        f"bpe-{corpus.digest(corpus.CACHE_VERSION, *decides)[:16]}.json",
        lambda: _train_bpe(texts, vocab_size),
        tokenizers.Tokenizer.from_str,
    )
    specials = dict(bos_token=BOS, eos_token=EOS, pad_token=PAD)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, clean_up_tokenization_spaces=False, **specials
    )


def get_tokenizer(config, key="data.tokenizer_name_or_path="):
    """Return the tokenizer that `data.tokenizer_name_or_path` names.

    `bpe` is a byte-level BPE of `data.vocab_size` entries, bos, eos and pad included,
    trained on the training documents and kept in `data.cache_dir`. Any other name goes to
    `transformers.AutoTokenizer`. `key` stands before the name in messages.

    All have bos and eos tokens. None is added: with a [PAD] behind its own, a mask
    would get another id than in the public hosts. Raises ConfigError.
    """
    name = config.data.tokenizer_name_or_path
    if name == "bpe":
        return _bpe_tokenizer(config.data)
    with border(
        f"{key}{name} cannot be loaded",
        "check the network, give the folder or the Hub name of a tokenizer that the "
        "installed transformers and tokenizers read, or bpe to train one",
    ):
        # The config beside what is shipped is of no model that `AutoTokenizer` knows.
        kind = "PreTrainedTokenizerFast" if name in SHIPPED else "AutoTokenizer"
        with _without_warnings("transformers.configuration_utils"):
            tokenizer = getattr(transformers, kind).from_pretrained(
                SHIPPED.get(name, name), trust_remote_code=False
            )
        vocabulary.check_tokens(tokenizer)
    for token, stand_in in (("bos", "cls"), ("eos", "sep")):
        if getattr(tokenizer, f"{token}_token") is not None:
            continue
        if (found := getattr(tokenizer, f"{stand_in}_token")) is None:
            raise ConfigError(
                f"{key}{name} has neither a {token} nor a {stand_in} token: "
                "choose a tokenizer with one, e.g. gpt2, or bpe."
            )
        setattr(tokenizer, f"{token}_token", found)
    return tokenizer


@contextlib.contextmanager
def _without_warnings(name):
    """Keep a logger to errors: transformers warns of a masked model's config beside a tokenizer."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tokenize(tokenizer, texts):
    if not texts:
        return []
    with border(
        f"data.tokenizer_name_or_path={tokenizer.name_or_path or 'bpe'} cannot encode the text",
        "choose another tokenizer",
    ):
        return tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            # Texts are cut into rows afterwards; their length is no cause for alarm.
            verbose=False,
        )["input_ids"]


def _to_rows(texts, what, length, wrap, insert_eos, tokenizer, size, mask_index):
    """Make rows of `length` tokens, [BOS] body [EOS], out of documents.

    what: their source, for messages; size, mask_index: of the model's vocabulary, None for
    no mask. wrap: True joins the documents (each followed by EOS if `insert_eos`) and cuts
    them into bodies, the remainder dropped; False gives each document a row, cut or padded
    (with EOS for want of a padding token).

    Returns tokens, int32 (rows, length), and how many of each row are in front of the
    padding, int64 (rows,). Raises ConfigError where one of those is none of the vocabulary,
    or the mask.
    """
    ids = _tokenize(tokenizer, texts)
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    room = length - 2
    if wrap:
        if insert_eos:
            ids = ([*row, eos] for row in ids)
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
        count = len(flat) // room
        bodies = flat[: count * room].reshape(count, room)
        tokens = np.pad(bodies, ((0, 0), (1, 1)), constant_values=((0, 0), (bos, eos)))
        lengths = np.full(count, length)
    else:
        rows = [[bos, *body[:room], eos] for body in ids]
        tokens = _padded(rows, length, eos if pad is None else pad)
        lengths = np.fromiter(map(len, rows), np.int64)
    valid = None if wrap else _before(lengths, length)
    vocabulary.check_ids(torch.from_numpy(tokens), size, mask_index, what, tokenizer, valid)
    return tokens, lengths


def _to_pair_rows(pairs, what, length, tokenizer, size, mask_index, **_):
    """Make rows [BOS] prompt completion [EOS] ... [EOS] out of pairs.

    EOS to the end, all of it counted: masks are filled in everywhere, so a model has to
    learn what follows a completion. A pair longer than a row is left out, with a warning.

    Returns and raises as `_to_rows`, and also (rows,) int64, how many tokens are given.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    prompts, completions = ([pair[i] for pair in pairs] for i in range(2))
    ids = zip(_tokenize(tokenizer, prompts), _tokenize(tokenizer, completions), strict=True)
    fit = [pair for pair in ids if sum(map(len, pair)) + 2 <= length]
    if len(fit) < len(pairs):
        log.warning(
            "%s: %d of %d pairs are longer than model.length=%d and left out.",
            *(what, len(pairs) - len(fit), len(pairs), length),
        )
    tokens = _padded([[bos, *prompt, *completion] for prompt, completion in fit], length, eos)
    vocabulary.check_ids(torch.from_numpy(tokens), size, mask_index, what, tokenizer)
    given = np.array([1 + len(prompt) for prompt, _ in fit], np.int64)
    return tokens, np.full(len(fit), length), given


def _padded(rows, length, pad):
    """Return rows of ids as int32 (rows, length), each filled up with `pad`."""
    tokens = np.full((len(rows), length), pad, np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def _before(lengths, length):
    """Return (rows, length) bool: what stands in front of each row's padding."""
    return torch.arange(length) < torch.from_numpy(lengths)[:, None]


class Rows(Dataset):
    """Rows in memory: tokens, int32 (rows, length), and lengths before the padding.

    given: (rows,), how many tokens of each row are context; None for no such thing.
    """

    def __init__(self, tokens, lengths, given=None):
        self.tokens = torch.from_numpy(tokens)
        self.lengths = torch.from_numpy(lengths)
        self.given = None if given is None else torch.from_numpy(given)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        row = self.tokens[index].long()
        place = torch.arange(len(row))
        found = {"input_ids": row, "attention_mask": (place < self.lengths[index]).long()}
        return found if self.given is None else found | {"context_mask": place < self.given[index]}


# Its name is part of the key of `datasets`' cache: where it was `_map_rows`, rows depended on
# the number of processes.
def _pack_rows(batch, numbers, layout, key):
    """Call `_to_rows` as `datasets` maps it over documents and their numbers."""
    texts = []
    for number, text in zip(numbers, batch[key], strict=True):
        if not isinstance(text, str):
            raise ConfigError(
                f"{layout['what']}: row {number} (the first is 0) has {text!r:.80} for "
                f"data.text_key={key}, which is no text: take such rows out, or name "
                "another column."
            )
        texts.append(text.removeprefix("\ufeff"))  # which a file may begin with
    tokens, lengths = _to_rows(texts, **layout)
    mask = _before(lengths, layout["length"]).int()
    return {"input_ids": tokens.tolist(), "attention_mask": mask.tolist()}


def get_dataset(config, tokenizer, mode, size=None, mask_index=None):
    """Return rows of `data.train` (mode "train") or `data.valid` (mode "valid").

    size, mask_index: of the model's vocabulary, where it is not the one that the host
    makes for the tokenizer. Rows are dicts `input_ids`, `attention_mask`, int64
    (length,): in memory for those of LOCAL, on disk for Hugging Face datasets.
    Raises ConfigError, also for training rows of less than a step and for no row at all.
    """
    name, length = config.data[mode], config.model.length
    if size is None and OmegaConf.select(config, "algo.parameterization") == "mean":
        size = vocabulary.uniform(tokenizer)
    elif size is None:
        size, mask_index = vocabulary.masked(tokenizer)
    layout = {
        "what": corpus.named(config.data, mode),
        "length": length,
        "wrap": config.data.wrap,
        "insert_eos": config.data.get(f"insert_{mode}_eos", True),
        "tokenizer": tokenizer,
        "size": size,
        "mask_index": mask_index,
    }
    if name in LOCAL:
        make_rows = _to_pair_rows if name == "textpairs" else _to_rows
        rows = Rows(*make_rows(corpus.documents(config.data, mode), **layout))
    else:
        key = config.data.text_key
        texts = corpus.huggingface_dataset(config.data, mode)
        with corpus.reading(config.data, mode):
            # In one process, whose tokenizer has threads: several would each cut a part of
            # the documents into rows.
            rows = texts.map(
                functools.partial(_pack_rows, layout=layout, key=key),
                batched=True,
                with_indices=True,
                remove_columns=[key],
            ).with_format("torch")
    wanted, use = 1, "validation"
    if mode == "train":
        wanted = config.loader.get("global_batch_size", 1)
        use = f"a step of loader.global_batch_size={wanted}"
    if len(rows) < wanted:
        raise ConfigError(
            f"{layout['what']} has {len(rows)} rows of model.length={length}, too few for "
            f"{use}: give more text, or take a smaller model.length or batch."
        )
    return rows


def get_dataloaders(config, tokenizer, skip_train=False, skip_valid=False, **how):
    """Return the training and the validation loader; None for one left out.

    how: goes to `get_dataset`. Both have the `tokenizer`. Training is a
    `ResumableLoader`. Raises ConfigError.
    """
    loader = config.loader
    workers = loader.num_workers

    def make(mode, batch_size):
        rows = get_dataset(config, tokenizer, mode, **how)
        kwargs = {
            "batch_size": batch_size,
            "num_workers": workers,
            "pin_memory": loader.pin_memory and torch.cuda.is_available(),
            "persistent_workers": workers > 0 and mode == "train",
        }
        if mode == "train":
            made = ResumableLoader(rows, seed=config.seed, **kwargs)
        else:
            generator = torch.Generator().manual_seed(config.seed)
            made = DataLoader(rows, sampler=RankSampler(rows), generator=generator, **kwargs)
        made.tokenizer = tokenizer
        return made

    made = (
        None if skip_train else make("train", loader.batch_size),
        None if skip_valid else make("valid", loader.eval_batch_size),
    )
    if workers > 0:
        # Forking after parallel tokenization warns in every worker, or hangs it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return made


def with_digest(config, train_loader):
    """Return a copy of the config with digests: of the tokenizer, and of training rows in memory.

    By them, in checkpoints, a run that goes on knows its text again, and others its ids.
    """
    rows, config = train_loader.dataset, config.copy()
    found = {f"data.{identity.TOKENIZER}": identity.tokenizer_sha256(train_loader.tokenizer)}
    if isinstance(rows, Rows):
        parts = {"tokens": rows.tokens, "lengths": rows.lengths}
        parts |= {} if rows.given is None else {"given": rows.given}
        found[identity.ROWS] = identity.sha256(parts)
    for key, sha256 in found.items():
        OmegaConf.update(config, key, sha256, force_add=True)
    return config
