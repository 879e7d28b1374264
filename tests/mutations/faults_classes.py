"""Which dimension holds the classes."""

from tests.mutations.mutation import Mutation

REAL, LAYOUT = 'tests/algorithms/test_positions.py', 'tests/batches/test_layout.py'
CHECKS, DRY_RUN = 'tests/batches/test_checks.py', 'tests/matches/test_dry_run.py'
SHAPES = 'tests/batches/test_masks.py::test_shapes_of_labels_and_logits_tell_the_classes'

MUTATIONS = [
    Mutation(
        "the softmax runs over the image's width",
        'composer_kd/batches/layout.py',
        'dim = usual if usual in found or not found else found[0]',
        'dim = logits.ndim - 1',
        (SHAPES, f'{REAL}::test_losses_that_hold_others_find_the_classes_too'),
    ),
    Mutation(
        'without labels, the width is taken for the classes',
        'composer_kd/batches/layout.py',
        'usual = 1 if logits.ndim > 3 else logits.ndim - 1',
        'usual = logits.ndim - 1',
        (SHAPES, f'{REAL}::test_dist_compares_pixels_without_labels_by_dimension_one'),
    ),
    Mutation(
        'classes last are taken for a dimension of the image',
        'composer_kd/batches/layout.py',
        'return logits if self.dim == logits.ndim - 1 else logits.movedim(self.dim, -1)',
        'return logits',
        (f'{REAL}::test_labels_of_pixels_reach_the_losses_that_ask_for_them',),
    ),
    Mutation(
        'a dimension that the labels contradict is believed',
        'composer_kd/batches/layout.py',
        'if found and dim not in found:',
        'if False:',
        (f'{REAL}::test_a_loss_that_says_another_dimension_than_the_labels_is_refused',),
    ),
    Mutation(
        'one output passes a divergence',
        'composer_kd/matches/loss_adapter.py',
        'if gradient is None or not gradient.any():',
        'if False:',
        (f'{REAL}::test_a_divergence_of_one_output_is_refused',),
    ),
    Mutation(
        'one output is refused in mid-run alone',
        'composer_kd/matches/dry_run.py',
        'elif None in samples.logits:',
        'elif False:',
        (f'{DRY_RUN}::test_logits_that_do_not_fit_show_before_training',),
    ),
    Mutation(
        'tokens with one output each are taken for classes',
        'composer_kd/batches/layout.py',
        'return whole and attention is not None and labels.shape == attention.shape == logits',
        'return False',
        (f'{LAYOUT}::test_one_output_for_each_token_is_compared_at_real_tokens',),
    ),
    Mutation(
        'the width of maps with one output is taken for the classes',
        'composer_kd/batches/layout.py',
        'is_map = len(logits) == 3 and not _is_sequence(batch, logits)',
        'is_map = False',
        (f'{LAYOUT}::test_one_output_for_each_pixel_is_compared_where_pixels_have_labels',),
    ),
    Mutation(
        'a softmax over classes that come together passes',
        'composer_kd/batches/checks.py',
        'if form.several_labels or several_labels(batch, logits):',
        'if False:',
        (f'{CHECKS}::test_a_softmax_of_classes_that_come_together_is_told_of_once',),
    ),
    Mutation(
        'one label in the first rows settles that there is one in all',
        'composer_kd/batches/checks.py',
        'return not bool((binary - task.detach().float()).abs() <= 1e-3 * binary)',
        'return True',
        (f'{CHECKS}::test_a_softmax_of_classes_that_come_together_is_told_of_once',),
    ),
    Mutation(
        'several labels at once have an accuracy',
        'composer_kd/bench/predictions.py',
        'return right / total if total and answers.classes > 1 and not answers.no_class else None',
        'return right / total if total and answers.classes > 1 else None',
        ('tests/bench/test_predictions.py::test_several_labels_at_once_have_no_accuracy_and_no_agreement',),
    ),
    Mutation(
        "export's check counts over the width",
        'composer_kd/deploy/verification.py',
        'same = layout.rows(expected).argmax(-1) == layout.rows(found).argmax(-1)',
        'same = expected.argmax(-1) == found.argmax(-1)',
        ('tests/deploy/test_verification.py',),
    ),
    Mutation(
        'agreement counts over the width',
        'composer_kd/algorithms/teacher_evaluation.py',
        'self._agree(layout.rows(student).flatten(0, -2), layout.rows(teacher).flatten(0, -2), mask)',
        'self._agree(student.flatten(0, -2), teacher.flatten(0, -2), None)',
        (f'{REAL}::test_agreement_counts_labelled_pixels_alone',),
    ),
]
