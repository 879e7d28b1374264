"""An object store in a folder, in the place of Composer's for ``s3://``."""

import shutil
from pathlib import Path

from composer.utils import file_helpers
from composer.utils.object_store import ObjectStore


class FolderStore(ObjectStore):
    """Objects are files below a folder; what is asked of it is counted."""

    def __init__(self, root, refuses=()):
        self.root, self.refuses, self.fetched = Path(root), refuses, []

    def get_uri(self, object_name):
        return f's3://bucket/{object_name}'

    def get_object_size(self, object_name):
        self._allowed('read')
        if not (self.root / object_name).is_file():
            raise FileNotFoundError(object_name)
        return (self.root / object_name).stat().st_size

    def upload_object(self, object_name, filename, callback=None):
        self._allowed('write')
        (self.root / object_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(filename, self.root / object_name)

    def download_object(self, object_name, filename, overwrite=False, callback=None):
        self.get_object_size(object_name)
        self.fetched.append(object_name)
        shutil.copy(self.root / object_name, filename)

    def list_objects(self, prefix=None):
        return [str(file.relative_to(self.root)) for file in self.root.rglob('*') if file.is_file()]

    def _allowed(self, what):
        if what in self.refuses:
            raise PermissionError(f'Access denied: no right to {what} with key=abcdefghij')


def in_place_of_s3(monkeypatch, root, refuses=()):
    """Puts a :class:`FolderStore` where Composer makes its own."""
    store = FolderStore(root, refuses)
    monkeypatch.setitem(file_helpers.BACKEND_TO_OBJECT_STORE_FACTORY, 's3', lambda bucket, path: store)
    return store


def as_composer_uploads(run, root):
    """Lays out a run folder as a Trainer with a remote ``save_folder`` does: a file names the latest checkpoint."""
    root.mkdir(parents=True)
    latest = (run / 'latest-rank0.pt').resolve()
    shutil.copy(latest, root / latest.name)
    (root / 'latest-rank0.pt.symlink').write_text(f'runs/{root.name}/{latest.name}', encoding='utf-8')
    for name in ('config.yaml', 'metrics.json'):
        shutil.copy(run / name, root / name)
