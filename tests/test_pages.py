"""The pages of docs: their code runs, their commands exist, their links lead somewhere."""

import importlib.util
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

import composer_kd.data
from composer_kd.cli.main import _parsed, main
from composer_kd.config.load import load_config
from composer_kd.config.shipped import located
from composer_kd.config.stages import has_stages, load_chain
from composer_kd.config.yaml_file import read_mapping
from tests.documents import ROOT, anchors, blocks, commands, links, pages, text_of

TEACHER = 'textattack/bert-base-uncased-SST-2'
START = 'docs/how_to/README.md'
GOES_ON = [  # these go on from the start of the how-to guides
    f'docs/how_to/{name}.md'
    for name in ('own_loss', 'own_teacher', 'several_teachers', 'own_algorithm', 'layers', 'plain_loop', 'resume')
]
ALONE = [
    'README.md',
    START,
    'docs/quickstart.md',
    *(f'docs/tutorials/{name}.md' for name in ('features', 'cut_a_bert', 'stored_teacher')),
    'docs/tutorials/timm_teacher.ipynb',
]
TEXTS = {'README.md', 'docs/quickstart.md', 'docs/tutorials/cut_a_bert.md'}
OTHERS = '\n'.join(
    path.read_text(encoding='utf-8') for path in (ROOT / 'tests').rglob('*.py') if path != Path(__file__)
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, in which what pages fetch is there already, and tiny."""
    timm = pytest.importorskip('timm')
    create = timm.create_model
    monkeypatch.setattr(
        timm, 'create_model', lambda model_name, pretrained=False, **options: create('test_resnet', **options)
    )
    whole, fetched = composer_kd.data.digits, composer_kd.data.glue
    monkeypatch.setattr(
        composer_kd.data, 'digits', lambda split='train', **options: whole(split, subset=200, **options)
    )
    monkeypatch.setattr(composer_kd.data, 'glue', lambda *task, download, **options: fetched(*task, **options))
    monkeypatch.setattr('composer_kd.workflows.report.timings.BUDGET', 0.01)
    monkeypatch.setattr('composer_kd.workflows.report.timings.LARGEST_BATCH', 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_texts(place):
    pytest.importorskip('transformers')
    from tests.texts import TINY, save_model, save_sst2

    save_model(place / TEACHER, sizes={**TINY, 'num_hidden_layers': 12})
    save_sst2(place / 'data')


def few_images():
    """In the place of ImageNet."""
    return DataLoader([(torch.rand(3, 32, 32), number) for number in range(4)], batch_size=4)


def run(page, namespace):
    for name, block in blocks(page, 'python'):
        if name == 'a student of timm':
            namespace['train_data'] = few_images()
        if name == 'timm':
            namespace['imagenet'] = few_images()
        exec(compile(block, f'{page}: {name}', 'exec'), namespace)
    return namespace


@pytest.mark.parametrize('page', ALONE)
def test_code_of_a_page_runs(page, place, capfd):
    if page in TEXTS:
        with_texts(place)
    run(page, {})


def test_few_labels_gain_what_the_tutorial_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run('docs/tutorials/few_labels.md', {})
    assert namespace['taught'] > namespace['alone'] + 0.05
    assert namespace['taught'] > 0.9


@pytest.mark.parametrize('page', GOES_ON)
def test_code_that_goes_on_from_the_start_runs(page, place):
    namespace = run(START, {})
    run(page, namespace)
    if page.endswith('resume.md'):
        assert namespace['trainer'].state.timestamp.batch == 4


def test_every_page_with_code_is_run():
    """Here, or by a test that names the page or its folder."""
    for page in pages():
        if blocks(page, 'python') and page not in {'docs/index.md', *ALONE, *GOES_ON, 'docs/tutorials/few_labels.md'}:
            assert page in OTHERS or Path(page).name in OTHERS or f'{Path(page).parent.as_posix()}' in OTHERS, page


EXAMPLES = sorted(path.name for path in (ROOT / 'examples').glob('*.py'))


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[pytest.mark.slow] * (name == 'digits.py')) for name in EXAMPLES]
)
def test_examples_run(name, place, capfd):
    options = {
        'digits.py': ['--epochs', '1'],
        'timm_student.py': ['--images', 'digits', '--duration', '2ba'],
        'bert_student.py': ['--layers', 'odd'],
        'own_method.py': ['--duration', '2ba'],
    }[name]
    if name == 'bert_student.py':
        with_texts(place)
    runpy.run_path(str(ROOT / 'examples' / name))['main'](options)
    assert f'`{name}`' in text_of('examples/README.md')
    if name == 'digits.py':
        assert (place / 'runs/example/report/report.html').exists()


@pytest.mark.parametrize('page', [page for page in pages() if list(commands(page))])
def test_commands_exist(page, capfd):
    """With their options; and so do the YAMLs that they name."""
    for line in commands(page):
        words = shlex.split(line)[1:]
        for word in words:
            if word.startswith('yamls/'):
                assert (ROOT / word).is_file(), line
            if word.startswith('@'):
                assert located(word).is_file(), line
        if not words or words[0].startswith('-'):
            continue
        try:
            _parsed([word for word in words if word != '...'])
        except SystemExit:
            pytest.fail(f'{page}: {line}\n{capfd.readouterr().err}')


@pytest.mark.slow
@pytest.mark.parametrize('page', ['docs/tutorials/yaml_to_report.md', 'docs/quickstart.md'])
def test_commands_work_in_their_order(page, tmp_path, monkeypatch, capfd):
    """In an empty folder, with shorter runs."""
    pytest.importorskip('timm')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('composer_kd.workflows.report.timings.BUDGET', 0.01)
    for line in commands(page):
        words = shlex.split(line)[1:]
        if words[0].startswith('--'):
            continue
        if words[0] == 'train':
            words += ['max_duration=4ba', 'eval_interval=4ba', 'save_interval=4ba', 'progress_bar=false']
        if words[0] == 'bench':
            words += ['--budget', '0.02', '--max-batch', '4']
        assert main(words) == 0, f'{line}\n{capfd.readouterr().err}'
    made = {path.name for path in Path('runs').rglob('*') if path.is_file()}
    assert {'config.yaml', 'metrics.json', 'report.html'} <= made


WITH_YAML = ['README.md', 'docs/quickstart.md', 'docs/tutorials/few_labels.md', 'docs/tutorials/yaml_to_report.md'] + [
    f'docs/how_to/{name}.md' for name in ('layers', 'several_teachers', 'trackers', 'trainer_arguments', 'script_runs')
]


@pytest.mark.parametrize('page', WITH_YAML)
def test_yamls_of_a_page_are_right(page, tmp_path):
    """Each in the place of the same keys of a YAML of the package, whose teachers it has unless it names its own."""
    start = located('@digits' if page == 'README.md' else '@digits/kd')
    found = blocks(page, 'yaml')
    assert found
    for number, (_, block) in enumerate(found):
        settings = read_mapping(start)
        teachers = settings['algorithms']['distillation']['teachers']
        settings.update(yaml.safe_load(block))
        settings['algorithms']['distillation'].setdefault('teachers', teachers)
        file = tmp_path / f'{number}.yaml'
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding='utf-8')
        assert load_chain(file) if has_stages(file) else load_config(str(file))


@pytest.mark.parametrize('page', pages())
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition('#')
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), f'{page}: {target}'
        if anchor and place.suffix in ('.md', '.ipynb'):
            assert anchor in anchors(place.resolve().relative_to(ROOT).as_posix()), f'{page}: {target}'


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('sphinx') is None, reason='needs the extra docs')
def test_the_site_is_built_without_a_warning(tmp_path):
    options = ['--builder', 'html', '--fail-on-warning', '--keep-going', '--quiet', '-c', 'docs']
    command = [sys.executable, '-m', 'sphinx', *options, '-d', str(tmp_path / 'cache'), '.', str(tmp_path / 'site')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'site/docs/index.html').exists()
    assert (tmp_path / 'site/index.html').exists()
