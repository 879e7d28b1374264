import yaml

from composer_kd.deploy.card import Card


def front_matter(card):
    return yaml.safe_load(card.split('---\n')[1])


def test_the_front_matter_is_what_the_hub_reads():
    from huggingface_hub import ModelCard

    card = Card('kd: a #1', 'Small.', 'onnx', 'image-classification', 'digits (split: test)', {'accuracy': 0.97})
    read = ModelCard(card.markdown())
    assert read.data.library_name == 'onnx'
    assert read.data.pipeline_tag == 'image-classification'
    (result,) = read.data.eval_results
    found = (result.metric_type, result.metric_value, result.dataset_type, result.dataset_name)
    assert found == ('accuracy', 0.97, 'digits', 'digits (split: test)')
    assert front_matter(card.markdown())['model-index'][0]['name'] == 'kd: a #1'


def test_where_a_model_comes_from():
    from huggingface_hub import ModelCard

    known = {'license': 'apache-2.0', 'base_models': ['google-bert/bert-base-uncased'], 'datasets': ['nyu-mll/glue']}
    on = {'type': 'nyu-mll/glue', 'config': 'sst2', 'split': 'validation'}
    plain = ('kd', 'Small.', 'transformers', 'text-classification', 'glue (task: sst2)', {'accuracy': 0.9})
    read = ModelCard(Card(*plain, **known, evaluated=on).markdown())
    assert (read.data.license, read.data.base_model, read.data.datasets) == tuple(known.values())
    (result,) = read.data.eval_results
    found = (result.dataset_type, result.dataset_config, result.dataset_split, result.dataset_name, result.verified)
    assert found == ('nyu-mll/glue', 'sst2', 'validation', 'glue (task: sst2)', False)


def test_what_is_not_known_is_left_out():
    card = Card('kd', 'Small.', 'pytorch', metrics={'accuracy': 0.5}, sections=[('Speed', ''), ('Use', 'x')])
    assert front_matter(card.markdown()).keys() == {'library_name', 'tags'}
    assert '## Speed' not in card.markdown()
    assert card.markdown().endswith('## Use\n\nx\n')
