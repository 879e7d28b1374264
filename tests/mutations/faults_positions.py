"""Which positions count."""

from tests.mutations.mutation import Mutation

MASKS, TASKS = 'tests/batches/test_masks.py', 'tests/test_tasks.py::test_losses_are_those_of_samples_alone'
REAL, LAYOUT = 'tests/algorithms/test_positions.py', 'tests/batches/test_layout.py'

MUTATIONS = [
    Mutation(
        'class 156 of labels in uint8 is taken for -100',
        'composer_kd/batches/masks.py',
        'return labels if labels.dtype.is_signed else labels.long()',
        'return labels',
        (MASKS,),
    ),
    Mutation(
        'a causal language model compares where its own label is known, not the next',
        'composer_kd/batches/masks.py',
        'return Valid.of(_following(mask, False) if form.shift_labels and mask.ndim == 2 else mask, True)',
        'return Valid.of(mask, True)',
        (f'{TASKS}[causal]', f'{TASKS}[packed]'),
    ),
    Mutation(
        'all attended positions are those with a label',
        'composer_kd/batches/masks.py',
        'return form.positions != ATTENDED and not form.ctc and labels_of(batch) is not None',
        'return not form.ctc and labels_of(batch) is not None',
        (f'{TASKS}[attended_words]',),
    ),
    Mutation(
        'padded frames of speech count',
        'composer_kd/batches/masks.py',
        'return frames < lengths[:, None]',
        'return frames < lengths.max() + 0 * lengths[:, None]',
        (f'{TASKS}[speech]', f'{LAYOUT}::test_frames_of_speech_models_without_ctc_are_those_of_real_audio'),
    ),
    Mutation(
        'the task of CTC is weighed by the labels of whole sequences',
        'composer_kd/batches/masks.py',
        'if labels is None or labels.ndim == 0 or form.ctc:',
        'if labels is None or labels.ndim == 0:',
        (f'{TASKS}[speech]',),
    ),
    Mutation(
        "layers of a decoder are masked by the encoder's mask",
        'composer_kd/batches/masks.py',
        'attention = attention_of(batch, form.encoder_decoder)\n    return attention',
        'attention = attention_of(batch, False)\n    return attention',
        (f'{REAL}::test_layers_of_a_decoder_are_masked_by_its_own_positions',),
    ),
    Mutation(
        'a microbatch without a label makes the task loss NaN',
        'composer_kd/batches/counts.py',
        "if task.device.type == 'cpu' and not valid.count:",
        'if False:',
        (f'{REAL}::test_a_microbatch_without_labels_is_no_nan_for_hugging_face_models',),
    ),
    Mutation(
        'microbatches count alike, however many labels they have',
        'composer_kd/batches/masks.py',
        'return self.count / self.size / per_sample',
        'return per_sample / per_sample',
        (f'{TASKS}[token_classes]', f'{TASKS}[masked_words]'),
    ),
    Mutation(
        'labels one position off are not noticed',
        'composer_kd/batches/checks.py',
        'if seen[not form.shift_labels] and not seen[form.shift_labels]:',
        'if False:',
        (
            f'{REAL}::test_a_loss_of_the_next_token_shows_that_labels_are_one_off',
            f'{REAL}::test_a_decoder_of_transformers_that_does_not_shift_is_told_of',
        ),
    ),
    Mutation(
        'labels of samples in a column mask the logits',
        'composer_kd/batches/layout.py',
        'return shape[:1] + shape[2:] if len(shape) > 1 and shape[1] == 1 else shape',
        'return shape',
        (MASKS, f'{REAL}::test_a_batch_gives_the_same_losses_however_it_is_cut'),
    ),
    Mutation(
        'smoothed labels say that every position counts',
        'composer_kd/algorithms/distillation.py',
        'labels = None if self._smoothing is None else self._smoothing.original_labels',
        'labels = None',
        ('tests/algorithms/test_smoothed_labels.py',),
    ),
    Mutation(
        'the ignored label of segmentation models of transformers counts in the task',
        'composer_kd/batches/format.py',
        "maps = (module for module in model.modules() if _named_in('SEMANTIC_SEGMENTATION', module))",
        'maps: list[nn.Module] = []',
        (f'{LAYOUT}::test_the_ignored_label_of_a_segmentation_model_of_transformers_is_known',),
    ),
    Mutation(
        'bench counts labels that the model ignores',
        'composer_kd/bench/built_model.py',
        'said, form = self.candidate.shift_labels, self.inference.form',
        'said, form = self.candidate.shift_labels, BatchFormat()',
        ('tests/bench/test_bench.py::test_the_label_that_a_models_own_loss_ignores_does_not_count',),
    ),
    Mutation(
        'a report leaves labels in a column out',
        'composer_kd/workflows/report/predict.py',
        'labels.shape not in (logits.shape[:1], (len(logits), 1)):',
        'labels.shape != logits.shape[:1]:',
        ('tests/workflows/report/test_report.py::test_labels_in_a_column_or_in_bytes_are_those_of_samples',),
    ),
    Mutation(
        "states of a speech model's encoder count at padding too",
        'composer_kd/batches/masks.py',
        "if attention is not None and 'input_ids' not in batch:",
        'if False:',
        (f'{LAYOUT}::test_states_of_a_speech_encoder_are_compared_at_frames_of_real_audio',),
    ),
    Mutation(
        'several labels at once for each frame are taken for a map of one output',
        'composer_kd/batches/layout.py',
        'return whole and labels.shape == logits and _has_map(batch, logits[1:])',
        'return whole and labels.shape == logits',
        (f'{LAYOUT}::test_several_whole_labels_for_each_frame_are_no_map_of_one_output',),
    ),
]
