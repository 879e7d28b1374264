"""Checks before a run that texts are tokenized for the model that reads them, and labelled as it counts its classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from composer.models import ComposerModel
from torch import nn

from composer_kd.batches.format import predicts_next_token
from composer_kd.data import AlignedTexts, TextBlocks, TextPairs, Tokenized
from composer_kd.data.collating import chain_of
from composer_kd.errors import Attempts, ConfigError
from composer_kd.features.calling import unwrapped
from composer_kd.features.longest_text import longest_text, positions_count_padding
from composer_kd.models.hugging_face import check_embedding
from composer_kd.pretrained import vocabulary_size
from composer_kd.teachers.meanings import class_names, vocabulary_of

__all__ = ['check_measured', 'check_texts']

_Texts = Tokenized | TextBlocks | TextPairs | AlignedTexts


def check_texts(model: ComposerModel, dataset: Any, loader: str) -> None:
    """Checks that the texts of a data set are meant for a model; other data sets are not looked at.

    Args:
        model: The model.
        dataset: The data set of the loader.
        loader: The key of the loader, for messages.

    Raises:
        ConfigError: If a token has no embedding, or another number than in the tokenizer of the model; if a text is
            longer than the model takes; if padding would move the tokens of a text; if the classes are others, or in
            another order.
    """
    _check(model, dataset, f'{loader}.dataset', _check_tokens, _check_length, _check_padding, _check_labels)


def check_measured(model: nn.Module, dataset: Any, path: str) -> None:
    """Checks that the texts on which a model is measured, whatever their labels, are tokenized for it.

    Args:
        model: The model.
        dataset: The data set; those without texts are not looked at.
        path: Its key, for messages.

    Raises:
        ConfigError: As :func:`check_texts`, but for classes.
    """
    _check(model, dataset, path, _check_tokens, _check_length, _check_padding)


def _check(model: nn.Module, dataset: Any, path: str, *checks: Callable[..., None]) -> None:
    kinds = (Tokenized, TextBlocks, TextPairs, AlignedTexts)
    texts = next((one for one in chain_of(dataset) if isinstance(one, kinds)), None)
    net = next((one for one in unwrapped(model).modules() if hasattr(one, 'get_input_embeddings')), None)
    if texts is None or net is None:
        return
    attempt = Attempts()
    for check in checks:
        attempt(check, model, net, texts, path)
    attempt.finish()


def _check_tokens(model: nn.Module, net: Any, texts: _Texts, path: str) -> None:
    check_embedding(net, vocabulary_size(texts.tokenizer), f'{path}.tokenizer')
    ours, theirs = vocabulary_of(getattr(model, 'tokenizer', None)), vocabulary_of(texts.tokenizer)
    if ours is None or theirs is None or ours == theirs:
        return
    moved = [token for token, number in theirs.items() if ours.get(token) != number]
    if moved:
        first = min(moved, key=lambda token: theirs[token])
        raise ConfigError(
            f'{path}.tokenizer: is another than that of the model: {len(moved)} tokens have other numbers, such as '
            f'{first!r}, {theirs[first]} here and {ours.get(first)} there. Give both the same folder'
        )


def _check_length(model: nn.Module, net: nn.Module, texts: _Texts, path: str) -> None:
    most = longest_text(net)
    if most is not None and texts.longest > most:
        raise ConfigError(
            f'{path}: its longest sample has {texts.longest} tokens, and {type(net).__name__} takes {most}; '
            'make them no longer than that: max_length of glue, length of text, max_source_length of text_pairs'
        )


def _check_padding(model: nn.Module, net: nn.Module, texts: _Texts, path: str) -> None:
    """Refuses padding on the left for a model that counts positions from the start of a row, padding included."""
    if isinstance(texts, Tokenized) and texts.tokenizer.padding_side == 'left' and positions_count_padding(net):
        raise ConfigError(
            f'{path}.tokenizer: pads on the left, and {type(net).__name__} counts positions from the start of a row, '
            "so that its answer to a text would depend on the others in the batch: tokenizer.padding_side = 'right'; "
            "tokenizer.save_pretrained('FOLDER')"
        )


def _check_labels(model: nn.Module, net: Any, texts: _Texts, path: str) -> None:
    if isinstance(texts, (TextBlocks, AlignedTexts)):
        _check_objective(net, texts, path)
        return
    if isinstance(texts, TextPairs):
        _check_pairs(net, texts, path)
        return
    if 'ForSequenceClassification' not in type(net).__name__:
        return
    problem, outputs = net.config.problem_type, net.config.num_labels
    if not hasattr(texts, 'classes'):
        if problem == 'single_label_classification':
            raise ConfigError(f'{path}: has scores for labels, and the model classes; write model.problem: regression')
        return
    if problem == 'multi_label_classification':
        raise ConfigError(
            f'{path}: has one of the classes {texts.classes} for each text, and the model (problem: multi_label) says '
            'of each class whether it applies; leave model.problem out'
        )
    if problem == 'regression' or outputs != texts.num_classes:
        raise ConfigError(
            f'{path}: has {texts.num_classes} classes, {texts.classes}, and the model '
            f'{"one score (problem: regression)" if problem == "regression" else f"{outputs} outputs"}; write '
            f'model.labels: {texts.classes}'
        )
    theirs, ours = class_names(model), [name.strip().casefold() for name in texts.classes]
    if theirs and list(theirs) != ours and sorted(theirs) == sorted(ours):
        order = [texts.classes[ours.index(name)] for name in theirs]
        raise ConfigError(
            f'{path}: its classes are {texts.classes}, and those of the model {list(theirs)}, in another order; '
            f'write labels: {order} beside the task'
        )


def _check_objective(net: Any, texts: TextBlocks | AlignedTexts, path: str) -> None:
    """A model that does not shift labels would be taught to repeat its input, and one that does to skip a token."""
    fits = _objective_of(net)
    if texts.objective != fits:
        other = {'causal': ', or take hf_causal_lm', 'masked': ', or take hf_masked_lm', 'unlabelled': ''}
        raise ConfigError(
            f'{path}.objective: {texts.objective!r}, and {type(net).__name__} is a model for {fits!r}; write '
            f'objective: {fits}{other[texts.objective]}'
        )


def _objective_of(net: Any) -> str:
    if any(map(predicts_next_token, net.modules())):
        return 'causal'
    return 'masked' if net.get_output_embeddings() is not None else 'unlabelled'


def _check_pairs(net: nn.Module, texts: TextPairs, path: str) -> None:
    """A decoder alone would be asked for the target without the source, and an encoder would be given the answer."""
    config: Any = net.config
    fits = (
        'seq2seq' if config.is_encoder_decoder else 'causal' if any(map(predicts_next_token, net.modules())) else None
    )
    if texts.objective != fits:
        way = 'take hf_causal_lm or hf_seq2seq' if fits is None else f'write objective: {fits}'
        raise ConfigError(f'{path}.objective: {texts.objective!r} does not fit {type(net).__name__}; {way}')
