"""Image classifiers of transformers, as students and as teachers."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import ConfigError, Distillation, FrozenTeacher, KLDivergence, Match, NormalizationAdapter
from composer_kd.losses import hard_label
from composer_kd.models import hf_image_classifier, resnet20
from tests.helpers import Recorder, train

transformers = pytest.importorskip('transformers')
SIZES = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8, 'image_size': 32}


def net(kind='vit', **settings):
    torch.manual_seed(0)
    return hf_image_classifier(architecture=kind, config={**SIZES, 'patch_size': 16}, num_labels=4, **settings)


def images(count=8):
    torch.manual_seed(1)
    return torch.rand(count, 3, 32, 32), torch.arange(count) % 4


def test_a_vit_teaches_a_resnet_with_the_statistics_of_its_processor(tmp_path):
    teacher = net()
    teacher.module.net.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    x, y = images()
    saved = hf_image_classifier(str(tmp_path))
    adapter = NormalizationAdapter([0.5] * 3, [0.25] * 3, pretrained=str(tmp_path))
    pixels = x * 0.25 + 0.5
    wanted = (pixels - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    torch.testing.assert_close(adapter(x), wanted)
    frozen = FrozenTeacher(saved, input_adapter=adapter)
    torch.testing.assert_close(frozen((x, y)), teacher.module.net.eval()(pixel_values=wanted).logits)
    from composer.models import ComposerClassifier

    student = ComposerClassifier(resnet20(num_classes=4), num_classes=4)
    recorder = Recorder()
    train(student, DataLoader(TensorDataset(x, y), batch_size=8), [Distillation(frozen, KLDivergence(2.0))], [recorder])
    assert recorder.batches[0]['kd'] > 0


def test_statistics_of_timm_and_none_at_all(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'pretrained_cfg': {'mean': [0.0] * 3, 'std': [2.0] * 3}}))
    assert NormalizationAdapter([0.0] * 3, [1.0] * 3, pretrained=str(tmp_path)).scale.flatten().tolist() == [0.5] * 3
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(ConfigError, match='pretrained: '):
        NormalizationAdapter([0.0] * 3, [1.0] * 3, pretrained=str(tmp_path))
    with pytest.raises(ConfigError, match='give mean_required and std_required, or pretrained'):
        NormalizationAdapter([0.0] * 3, [1.0] * 3)


def test_the_distillation_token_has_a_head_of_its_own_for_the_teacher():
    student, teacher = net('deit', distillation_token=True), net()
    x, y = images()
    outputs = student.train(False)((x, y))
    loss = torch.nn.functional.cross_entropy
    task, kd = float(loss(outputs.cls_logits, y)), loss(outputs.distillation_logits, teacher.eval()((x, y)).argmax(1))
    torch.testing.assert_close(student.eval_forward((x, y)), (outputs.cls_logits + outputs.distillation_logits) / 2)
    data = DataLoader(TensorDataset(x, y), batch_size=8)
    match = Match(hard_label, on=('outputs.distillation_logits', 'outputs'), name='token')
    recorder = Recorder()
    dropout_free = student.module.net.config
    assert dropout_free.hidden_dropout_prob == 0.0
    settings = {'kd_loss_weight': 0.5, 'org_loss_weight': 0.5}
    train(student, data, [Distillation(teacher, [match], **settings)], [recorder])
    found = recorder.batches[0]
    assert found['task'] == pytest.approx(task, rel=1e-4)
    assert found['kd'] == pytest.approx(float(kd), rel=1e-4)
    assert found['total'] == pytest.approx((task + float(kd)) / 2, rel=1e-4)
