"""The files for those who find, cite and change the repository: they are valid, and say what the code says."""

import re
from pathlib import Path

import pytest
import yaml

import composer_kd
from tests.test_packaging import PYPROJECT

ROOT = Path(__file__).parents[1]


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))


def test_the_citation_is_of_this_version():
    cited = read('CITATION.cff')
    # What the schema of the Citation File Format 1.2.0 requires, and the kinds of what is given besides.
    assert {'cff-version', 'message', 'title', 'authors'} <= cited.keys()
    assert cited['cff-version'] == '1.2.0'
    assert cited['type'] in ('software', 'dataset')
    assert cited['version'] == composer_kd.__version__
    assert cited['license'] == PYPROJECT['project']['license']
    assert cited['authors'] == PYPROJECT['project']['authors']
    assert all(isinstance(word, str) for word in cited['keywords'])
    known = {'abstract', 'authors', 'cff-version', 'date-released', 'keywords', 'license', 'message', 'title', 'type'}
    assert cited.keys() <= known | {'version', 'doi', 'repository-code', 'url'}


def test_the_changelog_has_this_version_or_the_next():
    headings = re.findall(r'^## (.*)$', (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), re.MULTILINE)
    assert headings[0] == 'Unreleased'
    dated = [re.fullmatch(r'(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)', heading) for heading in headings[1:]]
    assert all(dated)
    assert not dated or dated[0][1] == composer_kd.__version__


def test_the_hooks_are_what_make_lint_calls():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    (recipe,) = re.findall(r'^lint:.*\n((?:\t.*\n)+)', makefile, re.MULTILINE)
    called = [line.strip().replace('$(BIN)', '.venv/bin') for line in recipe.splitlines()]
    (repo,) = read('.pre-commit-config.yaml')['repos']
    assert repo['repo'] == 'local'
    assert [hook['entry'] for hook in repo['hooks']] == called
    for hook in repo['hooks']:
        assert {'id', 'name', 'entry', 'language'} <= hook.keys()
        assert hook['language'] == 'system'


def test_the_workflow_calls_what_ci_calls_with_each_python():
    workflow = read('.github/workflows/ci.yml')
    (job,) = workflow['jobs'].values()
    assert job['steps'][-1] == {'run': '.ci/run'}
    assert (ROOT / '.ci/run').stat().st_mode & 0o111
    supported = [one.rpartition(' ')[2] for one in PYPROJECT['project']['classifiers'] if re.search(r':: 3\.\d+$', one)]
    assert job['strategy']['matrix']['python'] == supported
    assert workflow['permissions'] == {'contents': 'read'}


@pytest.mark.parametrize('name', ['bug_report', 'feature_request'])
def test_the_forms_of_issues_are_forms(name):
    form = read(f'.github/ISSUE_TEMPLATE/{name}.yml')
    assert {'name', 'description', 'body'} <= form.keys()
    fields = form['body']
    assert len({field['id'] for field in fields}) == len(fields)
    for field in fields:
        assert field['type'] in ('textarea', 'input', 'dropdown', 'checkboxes', 'markdown')
        assert field['attributes']['label']
    assert any(field.get('validations', {}).get('required') for field in fields)


def test_files_that_these_name_exist():
    for path in ('SECURITY.md', 'CONTRIBUTING.md', '.github/PULL_REQUEST_TEMPLATE.md'):
        for link in re.findall(r'\]\((?!http|#)([^)#]+)', (ROOT / path).read_text(encoding='utf-8')):
            assert (ROOT / path).parent.joinpath(link).exists(), link
