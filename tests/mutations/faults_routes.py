"""Faults of samples with teachers of their own, and of resumes with other teachers."""

from tests.mutations.mutation import Mutation

ROUTES, RECORD = 'tests/algorithms/test_routing.py::', 'tests/algorithms/test_teacher_record.py::'
ROUTED = 'composer_kd/matches/routed.py'

MUTATIONS = [
    Mutation(
        'samples that nobody teaches count in the mean',
        ROUTED,
        'return fraction if taught is None else fraction / taught',
        'return fraction',
        (f'{ROUTES}test_losses_of_logits',),
    ),
    Mutation(
        'positions of samples that nobody teaches count in the mean',
        'composer_kd/batches/counts.py',
        'answers=_at(valid_of(batch, self._form), taught)',
        'answers=valid_of(batch, self._form)',
        (f'{ROUTES}test_tasks_of_every_kind',),
    ),
    Mutation(
        'a microbatch without a taught sample has no graph',
        ROUTED,
        'output[:0].sum().float()',
        'output.detach()[:0].sum().float()',
        (f'{ROUTES}test_microbatches_without_a_taught_sample_and_without_a_loss_of_their_own',),
    ),
    Mutation(
        'each teacher runs on all samples',
        ROUTED,
        'Part(micro.part(rows, drawn.size), ours',
        'Part(micro, ours',
        (f'{ROUTES}test_each_teacher_runs_on_its_own_samples_alone',),
    ),
    Mutation(
        'teachers get the column of the route',
        'composer_kd/batches/format.py',
        'if key != self.route_column}',
        '}',
        (f'{ROUTES}test_each_teacher_runs_on_its_own_samples_alone',),
    ),
    Mutation(
        'a run goes on with other teachers, and nothing says so',
        'composer_kd/algorithms/teacher_record.py',
        'if lines:',
        'if False:',
        (f'{RECORD}test_other_teachers_are_an_error_and_there_is_a_way_out',),
    ),
    Mutation(
        'the second algorithm of a run forgets its teachers',
        'composer_kd/algorithms/teacher_record.py',
        'return {_KEY: [one._fingerprints for one in self._all]}',
        'return {_KEY: [self._fingerprints] * len(self._all)}',
        (f'{RECORD}test_two_distillations_each_know_their_own',),
    ),
]
