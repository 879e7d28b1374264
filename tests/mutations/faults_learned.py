"""What is learned beside a student, other algorithms of the run, and what is logged."""

from tests.mutations.mutation import Mutation

CONFLICTS = 'composer_kd/algorithms/conflicts.py'
DISTILLATION = 'composer_kd/algorithms/distillation.py'
MUTATIONS = [
    Mutation(
        'projectors of a student that saves its adapters alone are lost',
        'composer_kd/matches/auxiliary_state.py',
        "return {'auxiliary': left_out} if left_out else {}",
        'return {}',
        ('tests/matches/test_auxiliary_state.py::test_it_is_saved_and_resumed',),
    ),
    Mutation(
        'they start anew without a word',
        DISTILLATION,
        'self._auxiliary.after_load()',
        'pass',
        ('tests/matches/test_auxiliary_state.py::test_what_begins_anew_is_said',),
    ),
    Mutation(
        'a projector that is replaced all the same is never trained',
        'composer_kd/matches/criterion.py',
        'self.auxiliary.follow_replacements()',
        'pass',
        ('tests/algorithms/test_surgery.py::test_what_is_replaced_beside_the_student_all_the_same_is_what_trains',),
    ),
    Mutation(
        'SWA cannot resume its average with a projector',
        DISTILLATION,
        'renew_copies(state)',
        'pass',
        ('tests/algorithms/test_surgery.py::test_averages_of_weights_are_resumed_with_what_is_learned',),
    ),
    Mutation(
        'LayerFreezing counts a projector among the layers',
        CONFLICTS,
        '        (LayerFreezing,),\n',
        '        (),\n',
        ('tests/algorithms/test_conflicts.py::test_refuses_an_algorithm_in_either_order',),
    ),
    Mutation(
        'an export at the end is of the projector too',
        CONFLICTS,
        '        (ExportForInferenceCallback,),\n',
        '        (),\n',
        ('tests/algorithms/test_conflicts.py::test_an_export_at_the_end_is_of_the_student_alone',),
    ),
    Mutation(
        'mixtures enter the memory under the number of their first image',
        CONFLICTS,
        '        _OTHER_SAMPLES,\n        lambda criterion: criterion.indexed,\n',
        '        (),\n        lambda criterion: criterion.indexed,\n',
        ('tests/algorithms/test_conflicts.py::test_refuses_an_algorithm_in_either_order',),
    ),
    Mutation(
        'a layer that is frozen in mid-run ends the run',
        'composer_kd/matches/student_features.py',
        'elif text not in self._taught:',
        'elif True:',
        ('tests/algorithms/test_conflicts.py::test_a_match_ends_with_the_layer_that_is_frozen',),
    ),
    Mutation(
        'a match inside a block that StochasticDepth drops ends the run at a random batch',
        CONFLICTS,
        "for block in (block for block in blocks if module.startswith(f'{block}.')):",
        'for block in ():',
        ('tests/algorithms/test_conflicts.py::test_stochastic_depth',),
    ),
    Mutation(
        'a match of a layer that LayerDrop leaves out does',
        CONFLICTS,
        'dropped = dropped_blocks(state.model) if layers else {}',
        'dropped = {}',
        ('tests/algorithms/test_layerdrop.py::test_refused_before_training',),
    ),
    Mutation(
        'speech models of transformers say their rate in the config alone',
        'composer_kd/features/dropped.py',
        "rate = of_config if own is None and name == 'layers' else own",
        'rate = own',
        ('tests/algorithms/test_layerdrop.py::test_refused_before_training',),
    ),
    Mutation(
        'moving teachers of two algorithms get one state',
        'composer_kd/algorithms/moving_teachers.py',
        "return f'{number}, {key}' if number else key",
        'return key',
        ('tests/teachers/test_base.py::test_those_of_two_algorithms_are_resumed_each_with_its_own_state',),
    ),
    Mutation(
        "parts of the model's own loss vanish from the log",
        DISTILLATION,
        'values if self.criterion.named else {}, own)',
        'values if self.criterion.named else {}, {})',
        ('tests/algorithms/test_loss_parts.py',),
    ),
    Mutation(
        "a part of the model's own loss overwrites what distillation logs",
        'composer_kd/algorithms/loss_parts.py',
        'taken = name in self',
        'taken = False',
        ('tests/algorithms/test_loss_parts.py',),
    ),
    Mutation(
        'names have brackets, for which MLflow drops all metrics',
        'composer_kd/matches/match.py',
        'self.name = _loggable(written)',
        'self.name = written',
        ('tests/matches/test_match.py',),
    ),
]
