"""A processor as the fork scaling-dllms asks for it, of a file of `tokenizers`."""

from tokenizers import Tokenizer

from mdlm_mcd.minihost.dataloader import BOS, EOS


class SentencePieceProcessor:
    def __init__(self, model_file):
        self.tokenizer = Tokenizer.from_file(model_file)
        self.vocab_size = self.tokenizer.get_vocab_size

    def decode(self, ids):
        """Return the text of a list of ids, or a list of texts."""
        batch = bool(ids) and isinstance(ids[0], list)
        return self.tokenizer.decode_batch(ids) if batch else self.tokenizer.decode(ids)

    def bos_id(self):
        return self.tokenizer.token_to_id(BOS)

    def eos_id(self):
        return self.tokenizer.token_to_id(EOS)
