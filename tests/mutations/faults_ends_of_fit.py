"""What a fit leaves behind, whatever ends it."""

from tests.mutations.mutation import Mutation

TESTS = ('tests/algorithms/test_ends_of_fit.py',)
HOOKS = 'composer_kd/features/hooks.py'
MUTATIONS = [
    Mutation(
        'hooks stay on the student after its forward pass',
        HOOKS,
        '    def _end(self, output: Any) -> None:\n        self._take_off()',
        '    def _end(self, output: Any) -> None:\n        pass',
        TESTS,
    ),
    Mutation(
        'hooks stay where a forward pass fails',
        HOOKS,
        'OutputHook(self._end), always_call=True)',
        'OutputHook(self._end))',
        TESTS,
    ),
    Mutation(
        'what an interrupted pass left sees the next',
        HOOKS,
        '        if self._running:\n            self.remove()',
        '        if self._running:\n            pass',
        ('tests/features/test_hooks.py',),
    ),
    Mutation(
        "a teacher's hooks stay where it fails",
        HOOKS,
        '            if not stay:\n                self._take_off()',
        '            pass',
        TESTS,
    ),
    Mutation(
        'a student with hooks cannot be saved',
        'composer_kd/features/hook_calls.py',
        'return type(self), (_ignore,)',
        'return type(self), (self.keep,)',
        TESTS,
    ),
    Mutation(
        'what a wrong path shows ends the forward pass itself',
        HOOKS,
        'self._found[key] = error.with_traceback(None)\n                    return',
        'raise',
        ('tests/features/test_hooks.py',),
    ),
    Mutation(
        'what an interrupted run learned stays in the student of the next',
        'composer_kd/matches/criterion.py',
        'self.auxiliary.drop_leftovers(state)',
        'pass',
        TESTS,
    ),
    Mutation(
        'and in its optimizer',
        'composer_kd/matches/auxiliary.py',
        '_remove_parameters(state.optimizers, left.parameters())',
        'pass',
        TESTS,
    ),
    Mutation(
        'a run that is refused leaves projectors',
        'composer_kd/matches/criterion.py',
        '            self.auxiliary.release(state.model)\n            raise',
        '            raise',
        TESTS,
    ),
    Mutation(
        'an object that is used again does not look at the frozen layers of its new student',
        'composer_kd/matches/student_features.py',
        'self._taught.clear()',
        'pass',
        TESTS,
    ),
]
