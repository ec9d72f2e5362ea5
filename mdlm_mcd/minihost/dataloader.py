"""Tokenizer and loaders of the minihost.

`get_tokenizer` and `get_dataloaders` are the two functions the host calls. A
batch is a dict of `input_ids` and `attention_mask`, both int64 (batch, length).
"""

import functools
import itertools
import os

import numpy as np
import omegaconf
import tokenizers
import torch
import transformers
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..checkpoints import identity
from . import corpus, order
from .errors import HostError, first_line
from .order import RankSampler, ResumableLoader

LOCAL = ("stdlib", "textfile")
BOS, EOS, PAD = SPECIALS = ["<|bos|>", "<|eos|>", "<|pad|>"]


def _train_bpe(texts, vocab_size):
    """A byte-level BPE of at most `vocab_size` entries, as JSON."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    bpe.pre_tokenizer = byte_level(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        # Inside the vocabulary, not beside it: `vocab_size` then counts them.
        special_tokens=SPECIALS,
        # All bytes, also those the text lacks: every text can be encoded.
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe.to_str()


def _bpe_tokenizer(data):
    vocab_size = data.get("vocab_size", 1024)
    least = 256 + len(SPECIALS)
    if vocab_size < least:
        raise HostError(
            f"data.vocab_size={vocab_size} is too small: a byte-level BPE takes at "
            f"least {least} (256 bytes and {len(SPECIALS)} special tokens)."
        )
    if data.train not in LOCAL:
        raise HostError(
            f"data.tokenizer_name_or_path=bpe is not trained on data.train={data.train}"
            ": name a pretrained tokenizer, e.g. data.tokenizer_name_or_path=gpt2, or "
            "set data.train to stdlib or textfile."
        )
    texts = corpus.documents(data, "train")
    key = corpus.digest(
        corpus.CACHE_VERSION, vocab_size, corpus.PYTHON, tokenizers.__version__, texts
    )
    text = corpus.cached(
        data.cache_dir,
        f"bpe-{key[:16]}.json",
        functools.partial(_train_bpe, texts, vocab_size),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(text),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def get_tokenizer(config):
    """The tokenizer that `data.tokenizer_name_or_path` names.

    `bpe` is a byte-level BPE of `data.vocab_size` entries, special tokens
    included, trained on the training documents and kept in `data.cache_dir`. It
    has bos, eos and pad, and no mask token. Any other name goes to
    `transformers.AutoTokenizer`.

    Returns:
        A tokenizer with bos, eos and pad tokens.

    Raises:
        HostError: the vocabulary is too small, the name cannot be loaded, or the
            tokenizer has nothing to begin or to end a row with.
    """
    data = config.data
    name = data.tokenizer_name_or_path
    if name == "bpe":
        return _bpe_tokenizer(data)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            corpus.existing_path(name), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise HostError(
            f"data.tokenizer_name_or_path={name} cannot be loaded "
            f"({first_line(error)}): check the network, give the folder or the Hub "
            "name of a tokenizer, or bpe to train one."
        ) from error
    for token, stand_in in (("bos", "cls"), ("eos", "sep")):
        if getattr(tokenizer, f"{token}_token") is None:
            text = getattr(tokenizer, f"{stand_in}_token")
            if text is None:
                raise HostError(
                    f"data.tokenizer_name_or_path={name} has neither a {token} nor a "
                    f"{stand_in} token: choose a tokenizer with one, e.g. gpt2, or bpe."
                )
            setattr(tokenizer, f"{token}_token", text)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return tokenizer


def _tokenize(tokenizer, texts):
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        # Texts are cut into rows afterwards; their length is no cause for alarm.
        verbose=False,
    )["input_ids"]


def _to_rows(ids, length, wrap, insert_eos, tokenizer):
    """Rows of `length` tokens, [BOS] body [EOS], out of tokenized documents.

    Args:
        ids: list of lists of int, one per document.
        length: tokens per row, at least 3.
        wrap: True joins the documents (each followed by EOS if `insert_eos`) and
            cuts them into bodies, the remainder dropped; False gives each
            document a row, cut or padded.

    Returns:
        (tokens, lengths): int32 (rows, length), and int64 (rows,), the number of
        tokens in front of the padding.
    """
    bos, eos, pad = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    room = length - 2
    if wrap:
        if insert_eos:
            ids = ([*row, eos] for row in ids)
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
        count = len(flat) // room
        tokens = np.empty((count, length), np.int32)
        tokens[:, 0], tokens[:, -1] = bos, eos
        tokens[:, 1:-1] = flat[: count * room].reshape(count, room)
        return tokens, np.full(count, length)
    tokens = np.full((len(ids), length), pad, np.int32)
    lengths = np.empty(len(ids), np.int64)
    for row, body in enumerate(ids):
        filled = [bos, *body[:room], eos]
        tokens[row, : len(filled)] = filled
        lengths[row] = len(filled)
    return tokens, lengths


class Rows(Dataset):
    """Rows held in memory.

    Args:
        tokens: int32 (rows, length).
        lengths: int64 (rows,); what stands behind is padding.
    """

    def __init__(self, tokens, lengths):
        self.tokens = torch.from_numpy(tokens)
        self.lengths = torch.from_numpy(lengths)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        row = self.tokens[index].long()
        mask = (torch.arange(len(row)) < self.lengths[index]).long()
        return {"input_ids": row, "attention_mask": mask}


def _map_rows(texts, layout, key):
    """`_to_rows` as `datasets` maps it over a batch of documents."""
    ids = _tokenize(layout["tokenizer"], texts[key])
    tokens, lengths = _to_rows(ids, **layout)
    mask = np.arange(layout["length"]) < lengths[:, None]
    return {"input_ids": tokens.tolist(), "attention_mask": mask.astype(int).tolist()}


class _Stream(IterableDataset):
    """Rows of a streamed Hugging Face dataset; each process takes its share."""

    def __init__(self, rows):
        self.rows = rows
        self.rank, self.world = 0, 1

    def __iter__(self):
        from datasets.distributed import split_dataset_by_node

        yield from split_dataset_by_node(self.rows, self.rank, self.world)


class _StreamLoader(DataLoader):
    def __iter__(self):
        # Here and not in the dataset: a worker process does not know its rank.
        self.dataset.rank, self.dataset.world = order.rank_and_world()
        return super().__iter__()


def get_dataset(config, tokenizer, mode):
    """Rows of `data.train` (mode "train") or `data.valid` (mode "valid").

    Returns:
        A dataset of dicts `input_ids`, `attention_mask`, int64 (length,): in memory
        for `stdlib` and `textfile`, on disk for Hugging Face datasets, iterable if
        `data.streaming`.

    Raises:
        HostError: see `corpus`; or the
            text does not fill one row.
    """
    name, length = config.data[mode], config.model.length
    if length < 3:
        raise HostError(
            f"model.length={length} has no room between BOS and EOS: take at least 3."
        )
    layout = {
        "length": length,
        "wrap": config.data.wrap,
        "insert_eos": config.data.get(f"insert_{mode}_eos", True),
        "tokenizer": tokenizer,
    }
    if name in LOCAL:
        ids = _tokenize(tokenizer, corpus.documents(config.data, mode))
        rows = Rows(*_to_rows(ids, **layout))
    else:
        texts = corpus.huggingface_dataset(config.data, mode)
        key = config.data.text_key
        make = functools.partial(_map_rows, layout=layout, key=key)
        if config.data.get("streaming", False):
            rows = texts.map(make, batched=True, remove_columns=[key])
            return _Stream(rows.with_format("torch"))
        processes = config.loader.num_workers if config.loader.num_workers > 1 else None
        rows = texts.map(make, batched=True, remove_columns=[key], num_proc=processes)
        rows = rows.with_format("torch")
        ids = _tokenize(tokenizer, texts[key][:]) if len(rows) == 0 < len(texts) else []
    if len(rows) == 0:
        count = sum(map(len, ids))
        raise HostError(
            f"data.{mode}={name} has {count} tokens, too few for one row of "
            f"model.length={length}: give more text, or take a smaller model.length."
        )
    return rows


def get_dataloaders(
    config, tokenizer, skip_train=False, skip_valid=False, valid_seed=None
):
    """The training and the validation loader.

    Args:
        config: reads `data`, `loader`, `model.length` and `seed`.
        tokenizer: that of `get_tokenizer`.
        skip_train, skip_valid: leave that loader out.
        valid_seed: shuffles the validation rows, once for all epochs; None keeps
            their order.

    Returns:
        (train_loader, valid_loader); None for one left out. Both have the
        `tokenizer`. Training is a `ResumableLoader`; a streamed dataset has plain
        loaders in its own order, which start over when a run is resumed.

    Raises:
        See `get_dataset`.
    """
    loader = config.loader
    workers = loader.num_workers
    if workers > 0:
        # Forking after parallel tokenization warns in every worker, or hangs it.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def make(mode, batch_size):
        rows = get_dataset(config, tokenizer, mode)
        kwargs = {
            "batch_size": batch_size,
            "num_workers": workers,
            "pin_memory": loader.pin_memory and torch.cuda.is_available(),
            "persistent_workers": workers > 0 and mode == "train",
        }
        if isinstance(rows, _Stream):
            made = _StreamLoader(rows, **kwargs)
        elif mode == "train":
            made = ResumableLoader(rows, seed=config.seed, **kwargs)
        else:
            generator = torch.Generator().manual_seed(config.seed)
            sampler = RankSampler(rows, valid_seed)
            made = DataLoader(rows, sampler=sampler, generator=generator, **kwargs)
        made.tokenizer = tokenizer
        return made

    return (
        None if skip_train else make("train", loader.batch_size),
        None if skip_valid else make("valid", loader.eval_batch_size),
    )


def with_digest(config, train_loader):
    """A copy of the config that knows the training rows, where they are in memory.

    By their digest, in checkpoints, a run that goes on knows its text again.
    """
    rows = train_loader.dataset
    if not isinstance(rows, Rows):
        return config
    config = config.copy()
    tensors = {"tokens": rows.tokens, "lengths": rows.lengths}
    with omegaconf.open_dict(config):
        config.data.rows_sha256 = identity.sha256(tensors)
    return config


def check_rows(config, train_loader):
    """Raises HostError where all the text is less than a step's rows.

    A streamed dataset does not say how many it has.
    """
    rows, wanted = train_loader.dataset, config.loader.global_batch_size
    if not isinstance(rows, _Stream) and len(rows) < wanted:
        raise HostError(
            f"data.train has {len(rows)} rows of model.length={config.model.length}, "
            f"and loader.global_batch_size={wanted} asks for more in one step: give "
            "more text, or take a smaller batch."
        )
