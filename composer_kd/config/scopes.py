"""The kinds of components that a YAML file names: where their names are looked up, and what makes a thing one."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ['SCOPES', 'Scope']


@dataclass(frozen=True)
class Scope:
    """The source of the names of one kind of component.

    Args:
        what: The kind of component, for messages.
        modules: Modules whose ``__all__`` is searched, in this order.
        base: Dotted path of the base class of all bare names; None accepts any callable.
        kind: Dotted paths of base classes; a class under a dotted path has one of them, or the ``methods``.
        methods: Names of methods that make a class of your own one of this kind, without a common base class.
        itself: How many arguments a function must take that is the component itself; None if functions are called
            to build the component.
        arguments: These arguments, for messages.
        given: How many arguments each call of it gets from the run, which a YAML file cannot set.
        filled_in: Names of parameters that the run fills in besides, if it has them.
        gives: What such a function of a package that everybody may name is annotated to return: dotted paths.
        factories: Dotted paths of classes without this base whose class methods build components of this kind.
        known: Dotted paths of functions and classes of libraries that are of this kind, though they do not say so.
        suffix: An ending that can be omitted: ``wandb`` names ``WandBLogger``.
        cheap: Whether construction is fast and free of side effects, so that the check does it as a dry run.
        also: Dotted paths of further classes that have a bare name.
        without: Names to leave out, because a YAML file cannot contain their arguments.
    """

    what: str
    modules: tuple[str, ...]
    base: str | None = None
    suffix: str = ''
    cheap: bool = True
    also: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    itself: int | None = None
    arguments: str = 'one argument'
    given: int = 1
    filled_in: tuple[str, ...] = ()
    gives: tuple[str, ...] = ('torch.Tensor',)
    factories: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    @property
    def only(self) -> str | None:
        """The only name of the scope, which is not written in a YAML file; None if there are several names."""
        return self.also[0].rpartition('.')[2] if self.also and not self.modules else None

    @property
    def a(self) -> str:
        """The kind of component with its article."""
        return f'{"an" if self.what[0] in "aeiou" else "a"} {self.what}'


_CALLED = ('__call__',)
SCOPES: dict[str, Scope] = {
    'model': Scope(
        'model',
        ('composer_kd.models',),
        cheap=False,
        also=('composer_kd.students.from_teacher.student_from_teacher',),
        without=('IndexedClassifier', 'SentenceEncoder', 'merged'),
        kind=('torch.nn.Module',),
        factories=('transformers.models.auto.auto_factory._BaseAutoModelClass',),
        known=('timm.models._factory.create_model',),  # 1.0.15 does not say what it returns
    ),
    'dataset': Scope(
        'data set',
        ('composer_kd.data',),
        cheap=False,
        without=(
            'AlignedTexts',
            'HeldOut',
            'ImageTensors',
            'Indexed',
            'PartlyLabelled',
            'RepeatingSampler',
            'SeededViews',
            'TextBlocks',
            'TextPairs',
            'Tokenized',
            'ViewIndex',
            'ViewSampler',
        ),
        kind=('torch.utils.data.Dataset',),
        methods=('__getitem__', '__len__'),
    ),
    'loss': Scope(
        'distillation loss',
        ('composer_kd.losses',),
        kind=('torch.nn.Module',),
        methods=_CALLED,
        itself=2,
        arguments='student, teacher',
        given=2,
        filled_in=('labels', 'mask', 'index'),
    ),
    'match': Scope('match', (), also=('composer_kd.matches.match.Match',), kind=('composer_kd.matches.match.Match',)),
    'on_policy': Scope(
        'description of batches of the student',
        (),
        also=('composer_kd.algorithms.on_policy.OnPolicy',),
        kind=('composer_kd.algorithms.on_policy.OnPolicy',),
    ),
    'schedule': Scope(
        'schedule',
        ('composer.optim',),
        'composer.optim.ComposerScheduler',
        suffix='Scheduler',
        also=('composer_kd.schedules.Ramp',),
        kind=('composer_kd.schedules.Ramp', 'composer.optim.ComposerScheduler'),
        methods=_CALLED,
        itself=1,
    ),
    'projector': Scope('projector', ('torch.nn',), 'torch.nn.Module', kind=('torch.nn.Module',)),
    'teacher': Scope(
        'kind of teacher',
        ('composer_kd.teachers',),
        suffix='Teacher',
        cheap=False,
        without=('Teacher',),
        methods=('prepare', 'outputs', 'end_batch'),
    ),
    'adapter': Scope(
        'input adapter',
        ('composer_kd.teachers',),
        suffix='Adapter',
        kind=('torch.nn.Module',),
        methods=_CALLED,
        itself=1,
    ),
    'collate': Scope(
        'collate function',
        ('torch.utils.data',),
        suffix='_collate',
        methods=_CALLED,
        itself=1,
        known=tuple(
            f'transformers.data.data_collator.{name}' for name in ('default_data_collator', 'DefaultDataCollator')
        ),
        gives=(),  # a batch is a dict or a list, which much else gives too
    ),
    'call': Scope(
        'function that calls a teacher',
        ('composer_kd.teachers.own_tokens',),
        suffix='_own_tokens',
        methods=_CALLED,
        itself=2,
        arguments='model, batch',
        given=2,
        filled_in=('index',),
    ),
    'route': Scope(
        'function that says which teachers teach each sample',
        (),
        methods=_CALLED,
        itself=2,
        arguments='batch, index',
        given=2,
    ),
    'optimizer': Scope(
        'optimizer', ('composer.optim', 'torch.optim'), 'torch.optim.Optimizer', kind=('torch.optim.Optimizer',)
    ),
    'scheduler': Scope(
        'scheduler',
        ('composer.optim',),
        'composer.optim.ComposerScheduler',
        suffix='Scheduler',
        kind=('composer.optim.ComposerScheduler',),
        methods=_CALLED,
        itself=1,
        given=2,
    ),
    'algorithm': Scope(
        'algorithm',
        ('composer_kd.algorithms', 'composer.algorithms'),
        'composer.core.Algorithm',
        kind=('composer.core.Algorithm',),
    ),
    'callback': Scope(
        'callback',
        ('composer.callbacks', 'composer_kd.callbacks.best'),
        'composer.core.Callback',
        kind=('composer.core.Callback',),
    ),
    'logger': Scope(
        'logger',
        ('composer.loggers',),
        'composer.loggers.LoggerDestination',
        'Logger',
        cheap=False,
        kind=('composer.loggers.LoggerDestination',),
    ),
}
