"""Loads what the transformers library saved, from a folder or from the Hugging Face Hub, and runs no code of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from composer_kd.errors import ConfigError

__all__ = [
    'folder_of',
    'has_tokenizer',
    'load',
    'load_tokenizer',
    'normalization_of',
    'quiet',
    'require_transformers',
    'vocabulary_size',
]

T = TypeVar('T')

_PACKAGE = 'package:'
_TOKENIZER_FILES = ('tokenizer_config.json', 'tokenizer.json', 'vocab.txt', 'vocab.json', 'spiece.model')
_FAILURES = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError)


def require_transformers(who: str) -> Any:
    """Imports transformers, which the extra ``nlp`` installs.

    Args:
        who: What needs it, for the message.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"{who} needs the transformers library: pip install 'composer_kd[nlp]'") from error
    return transformers


@contextlib.contextmanager
def quiet(who: str) -> Iterator[None]:
    """Keeps transformers from remarks, such as the names of all weights that a model does not share with its folder.

    Args:
        who: As for `require_transformers`.
    """
    remarks = require_transformers(who).utils.logging
    before = remarks.get_verbosity()
    remarks.set_verbosity_error()
    try:
        yield
    finally:
        remarks.set_verbosity(before)


def load(build: Callable[..., T], place: str, option: str, **settings: Any) -> T:
    """Calls a ``from_pretrained``; code that comes with the files is never run.

    Args:
        build: Such as ``transformers.AutoConfig.from_pretrained``.
        place: A folder that ``save_pretrained`` wrote; ``package:NAME/FOLDER`` for one in an installed Python package;
            or the name of a repository on the Hub.
        option: The option that says the place, for messages.
        **settings: Passed on.

    Returns:
        What ``build`` returns.

    Raises:
        ConfigError: If there is no such folder, it lacks files, the Hub cannot be reached or does not know the name, or
            the files need code of their own.

    Example:
        >>> load(require_transformers('a test').AutoConfig.from_pretrained, './nowhere', 'pretrained')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: pretrained: there is no folder './nowhere'; expected one that save_pretrained \
wrote, or the name of a repository on the Hugging Face Hub.
    """
    folder = folder_of(place)
    if not folder.is_dir() and _is_path(place):
        raise ConfigError(
            f'{option}: there is no folder {place!r}; expected one that save_pretrained wrote, or the name of a '
            'repository on the Hugging Face Hub.'
        )
    try:
        return build(str(folder) if folder.is_dir() else place, trust_remote_code=False, **settings)
    except _FAILURES as error:
        raise ConfigError(f'{option}: {_reason(place, folder, error)}') from error


def load_tokenizer(place: str, option: str = 'tokenizer') -> Any:
    """Loads a tokenizer; one without a token for padding pads with its token for the end of a text.

    Args:
        place: As for `load`.
        option: As for `load`.

    Returns:
        A tokenizer of transformers.

    Raises:
        ConfigError: As for `load`.
    """
    transformers = require_transformers(option)
    if not has_tokenizer(place):
        raise ConfigError(
            f'{option}: there is no tokenizer in {place!r}; expected one of {", ".join(_TOKENIZER_FILES)}. Give the '
            'folder of the model that it belongs to; tokenizer.save_pretrained(FOLDER) writes it.'
        )
    tokenizer = load(transformers.AutoTokenizer.from_pretrained, place, option)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def folder_of(place: str) -> Path:
    """The folder that a place means, which need not exist.

    Args:
        place: As for `load`. Of a package, nothing is imported.

    Example:
        >>> folder_of('package:composer_kd/models').parts[-2:]
        ('composer_kd', 'models')
    """
    if not place.startswith(_PACKAGE):
        return Path(place).expanduser()
    name, _, rest = place.removeprefix(_PACKAGE).partition('/')
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not roots:
        raise ConfigError(f'{place}: there is no such package here: pip install {name.replace("_", "-") or "NAME"}')
    return Path(roots[0]) / rest


def has_tokenizer(place: str) -> bool:
    """Whether a folder has files of a tokenizer; true for what is no folder, where only the Hub knows."""
    folder = folder_of(place)
    return not folder.is_dir() or any((folder / name).is_file() for name in _TOKENIZER_FILES)


def normalization_of(place: str) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation by which a pretrained image model wants its images normalised.

    Args:
        place: As for `load`.

    Returns:
        One number per channel, for pixels from 0 to 1: from ``preprocessor_config.json``, or of timm's models from
        ``pretrained_cfg`` in ``config.json``.

    Raises:
        ConfigError: If neither says it, or pixels are not to be from 0 to 1 first.
    """
    config = folder_of(place) / 'config.json'
    timm = json.loads(config.read_text(encoding='utf-8')).get('pretrained_cfg', {}) if config.is_file() else {}
    if 'mean' in timm and 'std' in timm:
        return list(timm['mean']), list(timm['std'])
    mixin = require_transformers('the normalisation of a pretrained model').image_processing_base.ImageProcessingMixin

    def read(where: str, **_: Any) -> Any:
        return mixin.get_image_processor_dict(where)[0]

    told = load(read, place, 'pretrained')
    if not told.get('do_rescale', True) or abs(told.get('rescale_factor', 1 / 255) * 255 - 1) > 1e-6:
        raise ConfigError(f'pretrained: the image processor of {place!r} has a scale of its own; give mean_required')
    if not told.get('do_normalize', True):
        channels = len(told.get('image_mean') or (0, 0, 0))
        return [0.0] * channels, [1.0] * channels
    if not told.get('image_mean') or not told.get('image_std'):
        raise ConfigError(f'pretrained: the image processor of {place!r} says no mean; give mean_required')
    return list(told['image_mean']), list(told['image_std'])


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the highest number that a tokenizer gives a token."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _is_path(place: str) -> bool:
    """Whether a text can be no name on the Hub, which has the form ``name`` or ``owner/name``."""
    return place.startswith(('.', '/', '~', _PACKAGE)) or place.count('/') > 1 or '\\' in place


def _reason(place: str, folder: Path, error: Exception) -> str:
    said = ' '.join(str(error).split())[:300]
    if folder.is_dir():
        files = ', '.join(sorted(one.name for one in folder.iterdir())[:8]) or 'nothing'
        return f'the folder {place!r}, with {files}, cannot be loaded: {type(error).__name__}: {said}'
    return (
        f'there is no folder {place!r}, and the Hugging Face Hub gave {type(error).__name__}: {said} Give the folder '
        f'of a model instead; where there is a network, `hf download {place} --local-dir FOLDER` makes one.'
    )
