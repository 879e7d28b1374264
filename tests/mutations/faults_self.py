"""Students that teach themselves: what is made of the labels, and layers that teach earlier ones."""

from tests.mutations.mutation import Mutation

VIRTUAL, TESTS = 'composer_kd/teachers/virtual.py', 'tests/teachers/test_virtual.py::'
OWN = 'tests/matches/test_own_layers.py::'

MUTATIONS = [
    Mutation(
        'a sample without a label is taught the first class',
        VIRTUAL,
        'torch.where(labels.unsqueeze(-1) < 0, rows, logits.to(rows.dtype))',
        'logits.to(rows.dtype)',
        (f'{TESTS}test_a_sample_without_a_label_is_not_taught',),
    ),
    Mutation(
        'the label of the same token, not of the next, makes the target',
        VIRTUAL,
        'aligned = aligned_labels(batch, self._form)',
        'aligned = aligned_labels(batch)',
        (f'{TESTS}test_tokens_with_ignored_positions',),
    ),
    Mutation(
        'several labels at once are taken for a mixture',
        VIRTUAL,
        'if several_labels(batch, student):',
        'if several_labels(batch, student) and labels.ndim > 2:',
        (f'{TESTS}test_labels_that_are_not_one_class_each_are_refused_before_training',),
    ),
    Mutation(
        'a layer that teaches learns to be like the layer that it teaches',
        'composer_kd/matches/term.py',
        'feature = student[(text, None)].detach()',
        'feature = student[(text, None)]',
        (f'{OWN}test_the_gradient_ends_at_the_layer_that_teaches',),
    ),
    Mutation(
        'padding counts in what a layer of the student teaches',
        'composer_kd/matches/term.py',
        'feature = summary(feature, token_mask(feature, micro.tokens_at(text)))',
        'feature = summary(feature, None)',
        (f'{OWN}test_tokens_with_padding_in_microbatches',),
    ),
    Mutation(
        'the copy of a compiled student answers with the weights of the student',
        'composer_kd/teachers/student_copy.py',
        '            del part.forward',
        '            pass',
        ('tests/teachers/test_student_copies.py::test_a_compiled_student_and_one_that_keeps_outputs_are_copied',),
    ),
    Mutation(
        'a batch that transformers collated weighs in its group as in the mean of all ranks',
        'composer_kd/batches/parts.py',
        'batch = dict(batch) if isinstance(batch, Mapping) else batch',
        'batch = [batch]',
        ('tests/algorithms/test_co_distillation.py::test_batches_of_transformers_of_other_sizes',),
    ),
]
