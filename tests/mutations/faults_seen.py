"""What the teacher sees and is told."""

from tests.mutations.mutation import Mutation

FROZEN, MEANINGS = 'tests/teachers/test_frozen.py', 'tests/teachers/test_meanings.py'
DRY_RUN = 'tests/matches/test_dry_run.py'

MUTATIONS = [
    Mutation(
        'the teacher is told another cache than the student',
        'composer_kd/teachers/frozen.py',
        'self._settings = settings_of(unwrapped(state.model)) or None',
        'self._settings = None',
        (f'{FROZEN}::test_of_packed_samples_a_copy_sees_what_the_student_sees',),
    ),
    Mutation(
        'gradient checkpointing, which turns the cache off, is not seen',
        'composer_kd/features/calling.py',
        "bool(caches) and not any(getattr(part, 'is_gradient_checkpointing', False) for part in parts)",
        'bool(caches)',
        (f'{FROZEN}::test_of_packed_samples_a_copy_sees_what_the_student_sees',),
    ),
    Mutation(
        'nothing is said of inputs that the teacher does not take',
        'composer_kd/teachers/frozen.py',
        'if key in self._student_takes and not calling.takes(key)',
        'if key in self._student_takes and calling.takes(key) is None',
        (f'{FROZEN}::test_what_the_student_gets_and_the_teacher_does_not_is_said',),
    ),
    Mutation(
        'classes in another order are compared',
        'composer_kd/teachers/meanings.py',
        'moved = [name for name in ours if name in shared and ours.index(name) != theirs.index(name)]',
        'moved: list[str] = []',
        (f'{MEANINGS}::test_classes_in_another_order_are_refused_with_the_order_that_is_right',),
    ),
    Mutation(
        'tokens with other numbers are compared',
        'composer_kd/teachers/meanings.py',
        'moved = moved_tokens(ours, theirs)',
        'moved: list[str] = []',
        (f'{MEANINGS}::test_another_tokenizer_is_refused',),
    ),
    Mutation(
        'the way out for padded vocabularies is not named',
        'composer_kd/matches/term.py',
        'if student[:-1] != teacher[:-1] or not student:',
        'if True:',
        (f'{MEANINGS}::test_a_padded_vocabulary_is_refused_with_the_way_out',),
    ),
    Mutation(
        'a forward of the user gets no numbers',
        'composer_kd/teachers/frozen.py',
        'return call((*batch, index) if is_triple else batch)',
        'return call(batch)',
        (f'{FROZEN}::test_stored_answers_are_found_by_the_number_of_the_sample',),
    ),
    Mutation(
        'logits of other shapes show in mid-run alone',
        'composer_kd/matches/dry_run.py',
        'term.check_fit(ours, shapes[number], [number])',
        'pass',
        (f'{DRY_RUN}::test_a_large_vocabulary_is_compared_by_its_shape_alone',),
    ),
    Mutation(
        'hidden states of an encoder are taken for logits',
        'composer_kd/features/outputs.py',
        'if states and all(map(_is_state, states)):',
        'if False:',
        (
            'tests/features/test_outputs.py::test_hidden_states_alone_are_no_logits',
            'tests/algorithms/test_absent_loss.py::test_hidden_states_of_an_encoder_are_not_taken_for_logits',
        ),
    ),
    Mutation(
        'a forward of the user that keeps something is shown tensors without values',
        'composer_kd/teachers/shapes.py',
        'if teacher.has_own_forward or runs_original(teacher.model):',
        'if runs_original(teacher.model):',
        (f'{DRY_RUN}::test_a_forward_that_keeps_something_keeps_what_has_values',),
    ),
]
