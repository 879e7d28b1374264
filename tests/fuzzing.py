"""Random mutations of YAML files, for tests that every slip ends in an error of this package."""

from __future__ import annotations

import copy
import datetime
import random
from typing import Any

import yaml


def _deep(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for _ in range(levels):
        node = {'deeper': node}
    return node


NUMBERS: tuple[Any, ...] = (
    *(True, False, 0, 1, -1, 2, 10**20, -(10**20), 10**400, 2**63, 10**18, 0.5, -0.5, 1e-400, 1e308),
    *(float('inf'), float('nan'), '1', '1e-3', 'x'),
)
TIMES: tuple[Any, ...] = (
    *('1.5ep', '1e400ba', '0ep', '-1ba', '10xp', 'ep', '1e5ba', 'nanep', '0.5dur', '3sec', '5tok', 'infdur', '1_0ep'),
    *('1e400dur', '-0.5dur', '99999999999999999999999ep', '1 ep', 'nandur', '2dur', '1iter', '1ep1ba', '0.5sec'),
)
TEXTS: tuple[Any, ...] = (
    *('', ' ', '.', '..', '../..', 'a/../b', '/', 'a\0b', '\ud800', 'ä' * 300, '{run_name}', '{', '???', '\\${x}'),
    *(
        '${',
        '${}',
        '${variables}',
        '${variables.nothing}',
        '${.x}',
        '${..}',
        '${oc.env:NO_SUCH_NAME}',
        '${oc.env:HOME}',
    ),
    *('${oc.decode:"["}', '${oc.create:{a: 1}}', '${no_such:1}', '${oc.env}', '${model}', '${variables.${x}}'),
    *('auto', 'null', 'on', '[', 'a:b', 'layer2', 'layer[0]', '/proc/self/mem', '/dev/zero', 's3://a/b'),
)
NAMES: tuple[Any, ...] = (
    *('mse', 'KLDivergence', 'adam', 'digits', 'linear_with_warmup', 'DKD', 'frozen', 'resize', 'Match', 'Ramp', 'crd'),
    *('subprocess.run', 'os.system', 'torch', 'torch.nn', 'torch.nn.Module', 'torch.Tensor', 'torch.os.system'),
    *('torch.optim.lr_scheduler.StepLR', 'composer.Algorithm', 'composer_kd.losses', 'composer_kd.Match', 'torch..nn'),
    *('tests.config.raises.Thing', 'tests.config.leaves.Thing', 'tests.helpers.Trainer', 'no.such', 'sklearn.svm.SVC'),
    *(
        '.a',
        'a.',
        'torch.hub.load',
        'torchvision.models.resnet18',
        'transformers.BertModel',
        'torch.nn.functional.kl_div',
    ),
)
TREES: tuple[Any, ...] = (
    *(
        None,
        [],
        {},
        [[]],
        [None],
        [1, 'a', {}],
        {'name': None},
        {'name': 'SGD', 'lr': 'x'},
        {'name': ['a']},
        {'name': {}},
    ),
    *(
        {'loss': 'mse', 'on': 3},
        {'loss': {'loss': {'loss': 'mse'}}},
        {'name': 'mse', 'on': 'x'},
        {'loss': [], 'on': True},
    ),
    *({1: 2}, {None: 1}, {True: 'x'}, {1.5: 2}, {'': 1}, {'a.b': 1}, {'${x}': 1}, {'name': 'Match'}, {'dataset': 'x'}),
    *(
        {'type': ['hyperband']},
        ['uniform'],
        {'min': 0, 'max': 1},
        {'values': [1, 1]},
        {'values': [{}, []]},
        {'value': {}},
    ),
    *({'min': -1e308, 'max': 1e308}, {'min': 0, 'max': 1e-320, 'q': 1e-323}, {'distribution': {}, 'value': 1}),
    *(
        {'distribution': 'log_uniform', 'min': -9e9, 'max': 2},
        {'parameters': {}},
        {'a': {'b': [1]}},
        _deep(30),
        _deep(200),
    ),
    {'distribution': 'q_uniform', 'min': 0, 'max': 10**15, 'q': 1e-9},
    *(datetime.date(2001, 1, 1), datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc), b'bytes', {'set'}),
)
NASTY = (*NUMBERS, *TIMES, *TEXTS, *NAMES, *TREES)


DAMAGE = ('', ':', '\t', '[', '}', '&a ', '*a', '"', '\x07', '- ', '\n', '!!set ', '${')


def mutated(tree: Any, chance: random.Random) -> Any:
    """Returns a copy of a tree with one to three random changes."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 2, 3))):
        holder, key = chance.choice(list(_places(tree)))
        chance.choice((_replace, _replace, _replace, _remove, _rename, _wrap, _move))(tree, holder, key, chance)
    return tree


def as_text(tree: Any, chance: random.Random) -> str:
    """Writes a tree as YAML, sometimes with damaged characters."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    while chance.random() < 0.15:
        at = chance.randrange(len(text) + 1)
        text = (
            text[:at]
            + chance.choice(('', ':', '\t', '[', '}', '&a ', '*a', '"', '\x07', '- ', '\n', '!!set ', '${'))
            + text[at + 1 :]
        )
    return text


def _places(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)


def _replace(tree: Any, holder: Any, key: Any, chance: random.Random) -> None:
    holder[key] = copy.deepcopy(chance.choice(NASTY if chance.random() < 0.5 else _like(key, holder[key])))


def _like(key: Any, value: Any) -> tuple[Any, ...]:
    """The nasty values that look most like a value."""
    if isinstance(value, (int, float)):
        return NUMBERS
    if isinstance(value, str):
        return TIMES if value[:1].isdigit() else NAMES if key == 'name' else TEXTS
    return TREES


def _remove(tree: Any, holder: Any, key: Any, chance: random.Random) -> None:
    if len(holder) > 1:
        del holder[key]


def _rename(tree: Any, holder: Any, key: Any, chance: random.Random) -> None:
    if isinstance(holder, dict):
        name = chance.choice((f'{key}x', str(key)[1:], str(key).upper(), 'name', 'loss', 'model', 7, True, None, 'a.b'))
        holder[name] = holder.pop(key)


def _wrap(tree: Any, holder: Any, key: Any, chance: random.Random) -> None:
    holder[key] = chance.choice((lambda one: [one], lambda one: {'name': one}, lambda one: [one, one], str))(
        holder[key]
    )


def _move(tree: Any, holder: Any, key: Any, chance: random.Random) -> None:
    source, other = chance.choice(list(_places(tree)))
    value = source[other]
    holder[key] = copy.deepcopy(value)
