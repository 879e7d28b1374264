"""Nets that train beside a student."""

from tests.mutations.mutation import Mutation

BESIDE, OWN = 'tests/runs/test_beside.py', 'tests/algorithms/test_self_distillation.py'
MUTUAL = 'tests/algorithms/test_mutual_learning.py'

MUTATIONS = [
    Mutation(
        "the parts of a net's own loss are means over each microbatch's own labels",
        'composer_kd/algorithms/loss_parts.py',
        'return {name: share_of_batch(part, outputs, micro, logits) for name, part in parts_of(loss).items()}',
        'return parts_of(loss)',
        ('tests/algorithms/test_loss_parts.py::test_parts_beside_other_nets_are_means_over_labels_as_the_task_is',),
    ),
    Mutation(
        'a net ends at the first of several runs of a layer, of which the exit learned from the last',
        'composer_kd/algorithms/exits.py',
        'if runs > 1:',
        'if False:',
        (f'{OWN}::test_a_layer_that_runs_several_times_has_no_exit',),
    ),
    Mutation(
        "a peer of the student's class is taken for a second seed of it",
        'composer_kd/workflows/report/gather.py',
        ", 'net': compared.net}",
        '}',
        (f'{BESIDE}::test_each_is_a_model_of_its_own_in_a_report',),
    ),
    Mutation(
        'the labels of a causal model, which it shifts in place, are shifted again for the next peer',
        'composer_kd/algorithms/peers.py',
        'eval_forward(to_evaluate_on(batch))',
        'eval_forward(dict(batch))',
        (f'{MUTUAL}::test_hugging_face_peers_are_evaluated',),
    ),
    Mutation(
        'peers are evaluated on the labels that a causal student has shifted in place',
        'composer_kd/algorithms/joint_evaluation.py',
        'to_evaluate_on(state.batch)',
        'dict(state.batch)',
        (f'{MUTUAL}::test_hugging_face_peers_are_evaluated',),
    ),
    Mutation(
        'the metrics of a peer a/b are those of a peer a',
        'composer_kd/algorithms/peers.py',
        "(not isinstance(name, str) or '/' in name)",
        'not isinstance(name, str)',
        (f'{MUTUAL}::test_wrong_input_is_refused_before_training',),
    ),
]
