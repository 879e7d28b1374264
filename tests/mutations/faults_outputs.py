"""Which of several outputs is compared, what is looked at before training, and what teachers lie where."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        'the first of several named outputs is taken',
        'composer_kd/features/outputs.py',
        'if not found or not isinstance(outputs, Sequence):',
        'if not found:',
        ('tests/features/test_outputs.py',),
    ),
    Mutation(
        'the first of a tuple is taken without a word',
        'composer_kd/features/outputs.py',
        'if not torch.compiler.is_compiling():',
        'if False:',
        ('tests/features/test_outputs.py',),
    ),
    Mutation(
        "students are told a teacher's remedy",
        'composer_kd/features/outputs.py',
        'def logits_of(outputs: Any, whose: str, remedy: str = BY_MATCH)',
        'def logits_of(outputs: Any, whose: str, remedy: str = BY_FORWARD)',
        ('tests/features/test_outputs.py',),
    ),
    Mutation(
        'a place is named that the outputs do not have',
        'composer_kd/features/outputs.py',
        'found or _nested(outputs)',
        'found',
        ('tests/features/test_outputs.py',),
    ),
    Mutation(
        "'layer[0]' of a tensor is the first sample of the batch",
        'composer_kd/features/layer_path.py',
        '(isinstance(key, str) or _is_of_samples(value, samples))',
        'isinstance(key, str)',
        ('tests/features/test_hooks.py',),
    ),
    Mutation(
        'a student is measured in eval mode, where outputs of training alone are not there',
        'composer_kd/teachers/shapes.py',
        'on_meta(model).train()',
        'on_meta(model).eval()',
        ('tests/matches/test_dry_run.py',),
    ),
    Mutation(
        'a look in train mode leaves the statistics of BatchNorm changed',
        'composer_kd/features/meta.py',
        'tensor.copy_(before)',
        'pass',
        ('tests/matches/test_dry_run.py', 'tests/matches/test_auxiliary.py'),
    ),
    Mutation(
        'teachers that were recorded in train mode answer with dropout',
        'composer_kd/teachers/recorded.py',
        'for buffer, version in buffers) or any(map(_differ, first, second))',
        'for buffer, version in buffers)',
        ('tests/teachers/test_frozen.py::test_what_was_recorded_in_train_mode_is_refused',),
    ),
    Mutation(
        'TorchScript modules have no signature',
        'composer_kd/features/calling.py',
        'if schema is None:',
        'if True:',
        ('tests/teachers/test_frozen.py::test_recorded_modules_teach',),
    ),
    Mutation(
        'teachers that others placed are moved',
        'composer_kd/teachers/placement.py',
        'if not is_placed(module):',
        'if True:',
        ('tests/teachers/test_frozen.py::test_what_others_placed_stays_there',),
    ),
    Mutation(
        'a teacher is called with the first sample where an evaluator has inputs alone',
        'composer_kd/teachers/frozen.py',
        'self._call if type(batch) is self._takes else None',
        'self._call',
        ('tests/teachers/test_frozen.py::test_is_called_as_each_kind_of_batch_needs',),
    ),
    Mutation(
        'an encoder cannot be a student',
        'composer_kd/algorithms/absent_loss.py',
        'return isinstance(model, HuggingFaceModel) and type(model).loss is HuggingFaceModel.loss',
        'return False',
        ('tests/algorithms/test_absent_loss.py',),
    ),
]
