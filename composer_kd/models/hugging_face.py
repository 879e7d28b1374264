"""Text models of the transformers library, ready for Composer: with their tokenizer, their task's loss and its metrics.

Each function builds a ``composer.models.HuggingFaceModel``. Weights, configuration and tokenizer come from a folder or
from the Hugging Face Hub; or the weights are random, and the configuration is that of an architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from composer.models import HuggingFaceModel
from torch import nn

from composer_kd.errors import ConfigError
from composer_kd.models import text_metrics
from composer_kd.models.adapters import adapted
from composer_kd.models.hugging_face_build import Built, build
from composer_kd.models.text_metrics import metrics_of
from composer_kd.pretrained import has_tokenizer, load_tokenizer, vocabulary_size

__all__ = ['Attention', 'check_embedding', 'hf_causal_lm', 'hf_classifier', 'hf_masked_lm', 'hf_seq2seq', 'words_of']

Attention = Literal['eager', 'sdpa', 'flash_attention_2']
Problem = Literal['single_label', 'multi_label', 'regression']

_PROBLEMS = {
    'single_label': ('single_label_classification', text_metrics.CLASSES),
    'multi_label': ('multi_label_classification', text_metrics.SEVERAL_LABELS),
    'regression': ('regression', text_metrics.REGRESSION),
}


def hf_classifier(
    pretrained: str | nn.Module | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    problem: Problem = 'single_label',
    tokenizer: str | None = None,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    attention: Attention | None = None,
    metrics: Sequence[str] | None = None,
    peft: dict[str, Any] | None = None,
) -> HuggingFaceModel:
    """Builds a classifier or a regression of texts (``AutoModelForSequenceClassification``).

    Batches are mappings with ``input_ids``, ``attention_mask`` and ``labels``: classes ``(B,)``; of several labels per
    sample floats ``(B, num_labels)``; of a regression floats ``(B,)``. Logits are ``(B, num_labels)``.

    Args:
        pretrained: A folder that ``save_pretrained`` wrote, one in an installed package (``package:NAME/FOLDER``), or
            the name of a model on the Hub: its weights, configuration and tokenizer. A head that it lacks, or has for
            another number of classes, is random. In Python also a model of transformers, which is wrapped as it is.
        num_labels: The number of classes; None for that of ``labels``, of the configuration, or 1 of a regression.
        labels: The names of the classes in their order, for ``config.id2label``; student and teachers are compared by
            it.
        problem: ``'single_label'``: one class per sample, cross-entropy. ``'multi_label'``: several labels per sample,
            binary cross-entropy. ``'regression'``: one number, squared error.
        tokenizer: Another folder or name for the tokenizer.
        architecture: In the place of ``pretrained``: the model's kind, such as ``'bert'``, or a folder or name whose
            configuration is taken. The weights are random.
        config: Values of the configuration, such as ``{num_hidden_layers: 2, hidden_size: 128}``.
        attention: How attention is computed; maps of it (``config: {output_attentions: true}``) are had with
            ``'eager'`` alone, which is then the default.
        metrics: Some of ``accuracy``, ``f1``, ``mcc`` and ``cross_entropy``; of several labels ``accuracy`` and ``f1``;
            of a regression ``pearson``, ``spearman`` and ``mse``. None for all of them.
        peft: Adapters of the peft library, which then train in the place of the pretrained weights: ``{'name': 'lora',
            'r': 8}``, with options of its configuration classes. A head that is not in ``pretrained`` trains too.

    Returns:
        The model.

    Raises:
        ConfigError: If files are missing or need code of their own, or an option does not fit.

    Example:
        >>> tiny = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> model = hf_classifier(architecture='bert', config=tiny, labels=['no', 'yes'])
        >>> type(model.model).__name__, model.config.id2label, sorted(model.get_metrics())[:2]
        ('BertForSequenceClassification', {0: 'no', 1: 'yes'}, ['BinaryF1Score', 'CrossEntropy'])
    """
    if problem not in _PROBLEMS:
        raise ConfigError(f'problem: expected one of {list(_PROBLEMS)}, got {problem!r}')
    classes = _classes(num_labels, labels, problem)
    problem_type, kinds = _PROBLEMS[problem]
    own = {'problem_type': problem_type, **({} if classes is None else {'num_labels': classes})}
    built = build('AutoModelForSequenceClassification', pretrained, architecture, config, attention, own, labels)
    if problem == 'regression' and built.model.config.num_labels != 1:
        raise ConfigError(f'num_labels: a regression has one output, got {built.model.config.num_labels}')
    return _wrapped(built, tokenizer, metrics_of(kinds, metrics, built.model.config.num_labels), peft, 'SEQ_CLS')


def hf_causal_lm(
    pretrained: str | nn.Module | None = None,
    tokenizer: str | None = None,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    attention: Attention | None = None,
    metrics: Sequence[str] | None = None,
    peft: dict[str, Any] | None = None,
) -> HuggingFaceModel:
    """Builds a language model that predicts the next token (``AutoModelForCausalLM``).

    Batches have ``input_ids``, ``attention_mask`` and ``labels`` ``(B, S)``, a copy of ``input_ids`` with -100 where
    nothing counts: the model itself compares position ``i`` with the label of ``i + 1``.

    Args:
        pretrained: As for `hf_classifier`.
        tokenizer: As for `hf_classifier`.
        architecture: As for `hf_classifier`.
        config: As for `hf_classifier`; ``use_cache`` is false unless it is set.
        attention: As for `hf_classifier`.
        metrics: Some of ``cross_entropy`` and ``perplexity``, over tokens; None for both.
        peft: As for `hf_classifier`.

    Returns:
        The model.

    Raises:
        ConfigError: As for `hf_classifier`.

    Example:
        >>> model = hf_causal_lm(architecture='gpt2', config={'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'vocab_size': 11})
        >>> model.shift_labels, sorted(model.get_metrics())
        (True, ['LanguageCrossEntropy', 'LanguagePerplexity'])
    """
    built = build('AutoModelForCausalLM', pretrained, architecture, config, attention, {'use_cache': False})
    measured = metrics_of(text_metrics.LANGUAGE, metrics, 0)
    return _wrapped(built, tokenizer, measured, peft, 'CAUSAL_LM', shift_labels=True)


def hf_masked_lm(
    pretrained: str | nn.Module | None = None,
    tokenizer: str | None = None,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    attention: Attention | None = None,
    metrics: Sequence[str] | None = None,
    peft: dict[str, Any] | None = None,
) -> HuggingFaceModel:
    """Builds a language model that predicts masked tokens (``AutoModelForMaskedLM``).

    Batches have ``input_ids``, ``attention_mask`` and ``labels`` ``(B, S)``, -100 but where a token is to be predicted.

    Args:
        pretrained: As for `hf_classifier`.
        tokenizer: As for `hf_classifier`.
        architecture: As for `hf_classifier`.
        config: As for `hf_classifier`.
        attention: As for `hf_classifier`.
        metrics: Some of ``cross_entropy``, ``perplexity`` and ``accuracy``, over masked tokens; None for all.
        peft: As for `hf_classifier`.

    Returns:
        The model.

    Raises:
        ConfigError: As for `hf_classifier`.

    Example:
        >>> tiny = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> sorted(hf_masked_lm(architecture='bert', config=tiny).get_metrics())
        ['LanguageCrossEntropy', 'LanguagePerplexity', 'MaskedAccuracy']
    """
    built = build('AutoModelForMaskedLM', pretrained, architecture, config, attention)
    return _wrapped(built, tokenizer, metrics_of(text_metrics.MASKED, metrics, 0), peft, None)


def hf_seq2seq(
    pretrained: str | nn.Module | None = None,
    tokenizer: str | None = None,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    attention: Attention | None = None,
    metrics: Sequence[str] | None = None,
    peft: dict[str, Any] | None = None,
) -> HuggingFaceModel:
    """Builds an encoder-decoder (``AutoModelForSeq2SeqLM``).

    Batches have ``input_ids`` and ``attention_mask`` ``(B, S)`` and ``labels`` ``(B, T)``, from which the decoder's
    inputs are made; padding of labels is -100.

    Args:
        pretrained: As for `hf_classifier`.
        tokenizer: As for `hf_classifier`.
        architecture: As for `hf_classifier`.
        config: As for `hf_classifier`; ``use_cache`` is false unless it is set.
        attention: As for `hf_classifier`.
        metrics: Some of ``cross_entropy`` and ``perplexity``, over tokens; None for both.
        peft: As for `hf_classifier`.

    Returns:
        The model.

    Raises:
        ConfigError: As for `hf_classifier`.

    Example:
        >>> tiny = {'d_model': 8, 'd_kv': 4, 'd_ff': 8, 'num_layers': 1, 'num_heads': 2, 'decoder_start_token_id': 0}
        >>> hf_seq2seq(architecture='t5', config=tiny).config.is_encoder_decoder
        True
    """
    built = build('AutoModelForSeq2SeqLM', pretrained, architecture, config, attention, {'use_cache': False})
    return _wrapped(built, tokenizer, metrics_of(text_metrics.LANGUAGE, metrics, 0), peft, 'SEQ_2_SEQ_LM')


def _classes(num_labels: int | None, labels: Sequence[str] | None, problem: str) -> int | None:
    if labels is not None and len(set(labels)) != len(labels):
        raise ConfigError(f'labels: expected different names, got {list(labels)}')
    if labels is not None and num_labels not in (None, len(labels)):
        raise ConfigError(f'num_labels: {num_labels}, and labels names {len(labels)}: {list(labels)}; leave one out')
    said = num_labels if labels is None else len(labels)
    if said is None:
        return 1 if problem == 'regression' else None
    least = 1 if problem != 'single_label' else 2
    if said < least:
        raise ConfigError(f'num_labels: expected at least {least}, got {said}; one output is problem: regression')
    return said


def _wrapped(
    built: Built,
    tokenizer: str | None,
    metrics: Sequence[Any],
    peft: Mapping[str, Any] | None,
    task: str | None,
    **settings: Any,
) -> HuggingFaceModel:
    """Wraps a model for Composer, after a check that its tokenizer fits it."""
    words = words_of(built, tokenizer)
    if peft is not None:
        built = adapted(built, peft, task)
        settings['should_save_peft_only'] = False  # the base belongs to the checkpoint: its folder may change
    model = HuggingFaceModel(built.model, words, use_logits=True, eval_metrics=list(metrics), **settings)
    model.initialized = built.initialized
    return model


def words_of(built: Built, tokenizer: str | None) -> Any:
    """The tokenizer of a model, after a check that it fits.

    Args:
        built: The model; it gets the token of padding, if its configuration has none.
        tokenizer: The folder or name of another tokenizer; None for that of the model.

    Returns:
        The tokenizer; None if the model has none.

    Raises:
        ConfigError: If it cannot be loaded, or has more tokens than the model.
    """
    place = tokenizer or (built.place if built.place is not None and has_tokenizer(built.place) else None)
    words = None if place is None else load_tokenizer(place, 'tokenizer' if tokenizer else built.option)
    if words is not None:
        check_embedding(built.model, vocabulary_size(words), f'tokenizer {place!r}')
        if built.model.config.pad_token_id is None:
            built.model.config.pad_token_id = words.pad_token_id
    return words


def check_embedding(model: nn.Module, tokens: int, whose: str) -> None:
    """Checks that a model has an embedding for each token of a tokenizer.

    Args:
        model: A model of transformers.
        tokens: One more than the highest number of a token.
        whose: The tokenizer, for the message.

    Raises:
        ConfigError: If it has not.
    """
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    rows = getattr(embeddings, 'num_embeddings', None)
    if isinstance(rows, int) and tokens > rows:
        raise ConfigError(
            f'{whose}: has {tokens} tokens, and {type(model).__name__} has embeddings for {rows}: give the tokenizer '
            f'of the model, or a model without weights that many: config: {{vocab_size: {tokens}}}'
        )
