"""Measure NELBO, generative perplexity and sample entropy in a run of the host."""

import os

import torch
import torch.nn.functional as F
from torchmetrics.aggregation import MeanMetric

from ..errors import border
from ..models.vocabulary import check_evaluator, check_tokens


class NLL(MeanMetric):
    """Sum of nats over sum of tokens, in float64: `value` is a sum over `weight` tokens."""

    def update(self, value, weight=1.0) -> None:
        value, weight = (
            # The device first: Apple's GPUs have no float64.
            torch.as_tensor(x).detach().to(self.device).double().sum()
            for x in (value, weight)
        )
        self.mean_value = self.mean_value + value
        self.weight = self.weight + weight


class Perplexity(NLL):
    """exp(nats per token)."""

    def compute(self) -> torch.Tensor:
        return super().compute().exp()


class Metrics:
    """What one run measures. `gen_ppl` needs an evaluator, loaded on first use."""

    def __init__(self, gen_ppl_eval_model_name_or_path=None, eval_ppl_batch_size=8):
        self.valid_nll = NLL().set_dtype(torch.float64)
        self.gen_ppl = Perplexity().set_dtype(torch.float64)
        self.sample_entropy = MeanMetric()
        self.eval_ppl_batch_size = eval_ppl_batch_size
        self.gen_ppl_eval_model_name_or_path = gen_ppl_eval_model_name_or_path
        self._evaluator = None

    def to(self, device):
        # They count in float64, which Apple's GPUs do not have.
        device = "cpu" if torch.device(device).type == "mps" else device
        for metric in (self.valid_nll, self.gen_ppl, self.sample_entropy):
            metric.to(device)
        return self

    def update_train(self, nll, aux_loss, num_tokens):
        """Take what the public hosts count; here `trainer/loss` is all that is logged."""

    @torch.no_grad()
    def record_entropy(self, tokens):
        """Record the unigram entropy of each sample in nats; tokens: (batch, length)."""
        for sample in tokens.cpu():
            counts = sample.unique(return_counts=True)[1].double()
            entropy = torch.special.entr(counts / counts.sum()).sum()
            self.sample_entropy.update(entropy.to(self.sample_entropy.device))

    def load_evaluator(self, device="cpu"):
        """Return (tokenizer, evaluator), opened once. Raises ConfigError."""
        if self._evaluator is None:
            import transformers

            name = self.gen_ppl_eval_model_name_or_path
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            with border(
                f"eval.gen_ppl_eval_model_name_or_path={name} cannot be loaded",
                "check the network, or give the folder of a causal language model with "
                "its tokenizer",
            ):
                kinds = transformers.AutoTokenizer, transformers.AutoModelForCausalLM
                tokenizer, model = (
                    kind.from_pretrained(name, trust_remote_code=False) for kind in kinds
                )
                check_tokens(tokenizer)
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._evaluator = tokenizer, model.eval()
        tokenizer, model = self._evaluator
        return tokenizer, model.to(device)

    @torch.no_grad()
    def record_generative_perplexity(self, text_samples, max_length, device="cpu"):
        """Record the perplexity of texts under a causal LM of `transformers`.

        Raises ConfigError where the evaluator cannot read them.
        """
        tokenizer, model = self.load_evaluator(device)
        what = f"eval.gen_ppl_eval_model_name_or_path={model.name_or_path}"
        with border(f"{what} cannot encode the samples", "choose another"):
            cut = {"truncation": True, "max_length": max_length}
            batch = tokenizer(list(text_samples), return_tensors="pt", padding=True, **cut)
        check_evaluator(what, model, batch["input_ids"])
        names, size = ("input_ids", "attention_mask"), self.eval_ppl_batch_size
        parts = (batch[name].to(device).split(size) for name in names)
        for chunk, mask in zip(*parts, strict=True):
            logits = model(chunk, attention_mask=mask).logits[:, :-1].float()
            nll = F.cross_entropy(logits.mT, chunk[:, 1:], reduction="none")
            is_eos = chunk == tokenizer.eos_token_id
            # The hosts' rule: of the EOS tokens only the first counts.
            valid = (~is_eos | (is_eos.cumsum(-1) == 1))[:, 1:] & (mask[:, 1:] > 0)
            self.gen_ppl.update(nll[valid].double().sum(), valid.sum())
