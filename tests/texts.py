"""Configs of the minihost's data, and tokenizers of a few words."""

from pathlib import Path

import tokenizers
import transformers
from omegaconf import OmegaConf

from mdlm_mcd.minihost import dataloader

CONFIGS = Path(dataloader.__file__).parent / "configs"
WORDS = "the cat sat on a mat and saw one old dog run by its red house at dawn".split()


def config_of(name, cache_dir, length=16, workers=0, algo="subs", **data):
    """What the loaders read: `data`, `loader`, `model.length`, `seed`, the kind of model."""
    own = [OmegaConf.load(CONFIGS / f) for f in ("config.yaml", f"data/{name}.yaml")]
    loader = {"batch_size": 4, "eval_batch_size": 3, "num_workers": workers}
    return OmegaConf.create(
        {
            "data": OmegaConf.merge(own[0].data, own[1], {"cache_dir": str(cache_dir)}, data),
            "loader": {**loader, "pin_memory": True},
            "model": {"length": length},
            "algo": {"parameterization": algo},
            "seed": 7,
        }
    )


def word_tokenizer(folder, vocab=None, added=(), unk_token="[UNK]", **specials):
    """Save a word-level tokenizer with these special tokens; return its folder's name."""
    vocab = vocab or {t: i for i, t in enumerate([*specials.values(), unk_token, *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=unk_token))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=unk_token, **specials
    )
    made.add_tokens(list(added))
    made.save_pretrained(folder)
    return str(folder)


def tiny_gpt2(folder, size, context=16):
    """Save a causal language model beside a tokenizer in the folder."""
    sizes = dict(n_positions=context, n_embd=16, n_layer=1, n_head=2)
    config = transformers.GPT2Config(vocab_size=size, bos_token_id=0, eos_token_id=1, **sizes)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    return model
