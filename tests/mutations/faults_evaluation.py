"""Evaluation of the teachers beside the student."""

from tests.mutations.mutation import Mutation

TESTS = ('tests/algorithms/test_teacher_evaluation.py',)
PATH = 'composer_kd/algorithms/teacher_evaluation.py'
MUTATIONS = [
    Mutation(
        'an evaluator that writes text ends the run',
        PATH,
        "            self._left_alone = True\n            self._say(f'evaluator {state.dataloader_label!r}'",
        "            raise\n            self._say(f'evaluator {state.dataloader_label!r}'",
        TESTS,
    ),
    Mutation(
        'one evaluator that is left alone leaves out the others',
        PATH,
        'self._left_alone = self._comparable = False',
        'self._comparable = False',
        TESTS,
    ),
    Mutation(
        'a metric of whole outputs ends the run',
        PATH,
        'self._failed.add(name)',
        'raise',
        TESTS,
    ),
    Mutation(
        'it is said at each evaluation',
        PATH,
        'if (where, text[:30]) not in self._said:',
        'if True:',
        TESTS,
    ),
    Mutation(
        'agreement by the top class where there are several labels at once',
        PATH,
        'if not agreement.pop(_SEVERAL) > 0:',
        'if agreement.pop(_SEVERAL) > -1:',
        (*TESTS, 'tests/algorithms/test_positions.py'),
    ),
    Mutation(
        'models of one output always agree',
        PATH,
        '.classes > 1',
        '.classes > 0',
        TESTS,
    ),
    Mutation(
        'ignored pixels agree too',
        PATH,
        'return layout, layout.mask(valid), several_labels(batch, student)',
        'return layout, None, several_labels(batch, student)',
        (*TESTS, 'tests/algorithms/test_positions.py'),
    ),
    Mutation(
        'logits that training compares may differ in evaluation',
        PATH,
        '        if self._must_agree:',
        '        if False:',
        TESTS,
    ),
    Mutation(
        'other classes of a teacher of features are said after the first epoch',
        'composer_kd/algorithms/distillation.py',
        'if self._evaluates and others:',
        'if False:',
        TESTS,
    ),
    Mutation(
        'outputs that no match takes for logits are warned of',
        'composer_kd/algorithms/distillation.py',
        "warnings.simplefilter('ignore')  # no match",
        'pass  # no match',
        TESTS,
    ),
]
