"""Meters of energy, read from counters that are written here."""

import sys
import types

import pytest
import torch

from composer_kd.bench import energy
from composer_kd.bench.energy import NvmlMeter, RaplMeter, meter_for


def domain(folder, name, microjoules, wraps_at=1_000_000):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'name').write_text(f'{name}\n')
    (folder / 'energy_uj').write_text(f'{microjoules}\n')
    (folder / 'max_energy_range_uj').write_text(f'{wraps_at}\n')


@pytest.fixture
def counters(tmp_path):
    """Two sockets, of which one has cores and memory; and two counters of what these count already."""
    domain(tmp_path / 'intel-rapl:0', 'package-0', 100)
    domain(tmp_path / 'intel-rapl:0' / 'intel-rapl:0:0', 'core', 10)
    domain(tmp_path / 'intel-rapl:0' / 'intel-rapl:0:1', 'dram', 50)
    domain(tmp_path / 'intel-rapl:0:1', 'dram', 50)
    domain(tmp_path / 'intel-rapl:1', 'package-1', 999_000)
    domain(tmp_path / 'intel-rapl:2', 'psys', 0)
    domain(tmp_path / 'intel-rapl-mmio:0', 'package-0', 100)
    return tmp_path


def test_rapl_adds_up_sockets_and_memory_also_when_a_counter_wraps(counters):
    meter = RaplMeter(counters)
    assert meter.available()
    assert meter.source == 'RAPL (dram, package-0, package-1)'
    meter.start()
    assert meter.joules() == 0.0
    domain(counters / 'intel-rapl:0', 'package-0', 300_100)
    domain(counters / 'intel-rapl:0' / 'intel-rapl:0:1', 'dram', 10_050)
    domain(counters / 'intel-rapl:1', 'package-1', 1_000)
    domain(counters / 'intel-rapl:2', 'psys', 900_000)
    assert meter.joules() == pytest.approx(0.3 + 0.01 + 0.002)
    domain(counters / 'intel-rapl:1', 'package-1', 2_000)
    assert meter.joules() == pytest.approx(0.313)
    meter.start()
    assert meter.joules() == 0.0


def test_rapl_that_is_not_there_or_not_readable_is_not_available(counters, tmp_path_factory):
    assert not RaplMeter(tmp_path_factory.mktemp('none')).available()
    (counters / 'intel-rapl:1' / 'energy_uj').unlink()
    assert not RaplMeter(counters).available()
    with pytest.raises(OSError, match='energy_uj'):
        RaplMeter(counters).start()


@pytest.mark.parametrize('file', ['energy_uj', 'max_energy_range_uj'])
def test_rapl_that_is_damaged_is_an_os_error(counters, file):
    meter = RaplMeter(counters)
    meter.start()
    domain(counters / 'intel-rapl:1', 'package-1', 1_000)  # wrapped
    (counters / 'intel-rapl:1' / file).write_text('')
    with pytest.raises(OSError, match=file):
        meter.joules()


def test_nvml_counts_the_gpu_that_torch_means(monkeypatch):
    counter = {'GPU-a': 5_000, 'GPU-b': 7_000}
    library = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counter[handle],
    )
    monkeypatch.setitem(sys.modules, 'pynvml', library)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    uuids = ['b', 'a']  # another order than NVML's
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda i: types.SimpleNamespace(uuid=uuids[i]))
    meter = meter_for(torch.device('cuda:1'))
    assert isinstance(meter, NvmlMeter)
    assert not meter.whole_machine
    meter.start()
    counter.update({'GPU-a': 6_500, 'GPU-b': 99_000})
    assert meter.joules() == 1.5
    del counter['GPU-a']  # the GPU falls off the bus
    assert not meter.available()
    with pytest.raises(OSError, match='could not read'):
        meter.joules()


def test_nvml_without_its_library_is_not_available(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert not NvmlMeter(torch.device('cuda:0')).available()
    assert meter_for(torch.device('cuda:0')) is None


def test_a_device_without_a_meter_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(energy.RaplMeter, '__init__', lambda self: setattr(self, '_domains', []))
    assert meter_for(torch.device('cpu')) is None
    assert meter_for(torch.device('mps')) is None
