"""Pretrained models in EleutherAI's evaluation harness, the package ``lm_eval``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dst.core import checks, extras
from dst.eval.language import check, generate
from dst.eval.likelihood import likelihoods
from dst.eval.text import tokens as encoded
from dst.models import load
from dst.models import tokenizer as read_tokenizer
from dst.models.pretrained.tokenizing import end_of_text

with extras.required():
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from tqdm import tqdm

_STEP = 32  # lengths of texts that are continued are multiples: few programs
_FOLLOWING = 256  # tokens that are generated unless the task says how many


@register_model("dst")
class LanguageModel(TemplateLM):
    """A model directory or GGUF file as ``lm_eval`` wants it: likelihoods and greedy text.

    Args:
      path: of the model, as :func:`dst.models.load` reads it.
      batch_size: requests at a time, >= 1.
      tokenizer: of another directory or GGUF file; None: that of the model.
      device, max_batch_size: what the harness says to every model; not used here.

    Raises:
      FileNotFoundError: no such model.
      ValueError: a model that predicts no tokens, or cannot be read.

    Example:
      >>> import lm_eval  # doctest: +SKIP
      >>> model = LanguageModel("pruned/SmolLM2-wanda")  # doctest: +SKIP
      >>> lm_eval.simple_evaluate(model, tasks=["arc_easy"])["results"]  # doctest: +SKIP

    References: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/api/model.py.
    Checked against: the logits of whole sequences in NumPy, tests/eval/test_harness.py.
    Differs from its Hugging Face models: text is generated greedily alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int | str = 8,
        tokenizer: str | os.PathLike[str] | None = None,
        device: object = None,
        max_batch_size: object = None,
    ):
        super().__init__()
        self.model = load(path)
        check(np.zeros((1, 2), np.int32), self.model)
        self.tokenizer = read_tokenizer(tokenizer or path)
        self._end = end_of_text(tokenizer or path)
        size: Any = int(batch_size) if str(batch_size).isdigit() else batch_size
        checks.integer("batch_size", size, at_least=1)
        self.batch_size: int = size
        self.max_length = int(self.model.context)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._end

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return type(self.model).__name__

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text; none is added."""
        return encoded(self.tokenizer, string).tolist()

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, in windows of the context."""
        found = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            parts = [(("", ""), *make_disjoint_window(x)) for x in windows]
            found.append(sum(x for x, _ in self._loglikelihood_tokens(parts, disable_tqdm)))
        return found

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each up to the first of its stop words.

        Raises:
          ValueError: a task that samples.
        """
        found = []
        for request in tqdm(requests, desc="generating", disable=disable_tqdm):
            context, options = request.args
            if options.get("do_sample") or options.get("temperature", 0.0) > 0:
                raise ValueError(
                    f"generate_until: expected a task without sampling, got {options}. Text is "
                    "generated greedily."
                )
            stops = options.get("until") or []
            stops = [stops] if isinstance(stops, str) else list(stops)
            count = int(options.get("max_gen_toks", _FOLLOWING))
            found.append(self._continued(context, stops, count))
        return found

    def _continued(self, context: str, stops: list[str], count: int) -> str:
        count = min(count, self.max_length - 1)
        start = self.tok_encode(context)[-(self.max_length - count) :] or [self._end]
        following: list[int] = []
        while len(following) < count:
            known = start + following
            piece = min(_STEP - len(known) % _STEP, self.max_length - len(known))
            following += generate(self.model, np.array(known), piece).tolist()
            ended = self._end in following
            following = following[: following.index(self._end) if ended else count]
            text = self.tokenizer.decode(following)
            ends = [at for x in stops if x and (at := text.find(x)) >= 0]
            if ends or ended:
                return text[: min(ends, default=None)]
        return self.tokenizer.decode(following[:count])

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Of continuations, and whether each is what the model would say."""
        parts = [(before, following) for _, before, following in requests]
        with tqdm(total=len(parts), desc="likelihoods", disable=disable_tqdm) as bar:
            found = likelihoods(
                self.model,
                parts,
                batch=self.batch_size,
                progress=lambda done, _: bar.update(done - bar.n),
            )
        for request, answer in zip(requests, found, strict=True):
            if request[0] != ("", ""):
                self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return found
