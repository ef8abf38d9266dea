"""The record of a machine from a made-up /sys, the comparison of two machines, and the warnings of a run."""

from __future__ import annotations

import pytest

from logo_edge_bench import machine
from logo_edge_bench.energy import Rapl, open_meter


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_colon_", ":")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.fixture
def board(tmp_path):
    """A board at 1.5 GHz of at most 2, its governor schedutil, its CPU at 86 degrees and its fan at level 2."""
    policy, zone, fan = (
        "devices__system__cpu__cpufreq__policy0__",
        "class__thermal__thermal_zone0__",
        "class__thermal__cooling_device0__",
    )
    write(
        tmp_path,
        **{
            f"{policy}scaling_governor": "schedutil",
            f"{policy}scaling_min_freq": 600000,
            f"{policy}scaling_max_freq": 2000000,
            f"{policy}scaling_cur_freq": 1500000,
            f"{zone}type": "cpu-thermal",
            f"{zone}temp": 86000,
            f"{fan}type": "fan",
            f"{fan}cur_state": 2,
            "devices__system__cpu__cpu0__thermal_throttle__core_throttle_count": 3,
            "firmware__acpi__platform_profile": "balanced",
        },
    )
    return tmp_path


def test_a_board_is_described_by_what_its_speed_depends_on(board):
    description = machine.describe(board)
    assert description["governor"] == ["schedutil"]
    assert description["frequency_limits_mhz"] == [[600, 2000]]
    assert description["power_mode"] == "balanced"
    assert description["cpus"] >= len(description["usable_cpus"]) >= 1
    assert description["versions"]["onnxruntime"]
    assert description["isa"]
    assert set(machine.COMPARED) <= set(description)


def test_its_conditions_are_read_and_doubts_are_said(board):
    before = machine.conditions(board)
    assert before["celsius"] == {"cpu-thermal": 86.0}
    assert before["mhz"] == [1500]
    assert before["cooling"] == {"fan cooling_device0": 2}
    cool = before | {"celsius": {}, "load_average": 0.0}
    assert machine.warnings_of(cool, cool, 2) == []
    worse = before | {"throttles": 5, "mhz": [900], "cooling": {"fan cooling_device0": 3}}
    doubts = " ".join(machine.warnings_of(cool | {"load_average": 3.0}, worse, 2))
    for word in (
        "load average 3.0",
        "hot: cpu-thermal 86",
        "throttled 2 times",
        "fan cooling_device0",
        "900 to 1500 MHz",
    ):
        assert word in doubts


def test_a_machine_that_tells_nothing_is_described_all_the_same(tmp_path):
    conditions = machine.conditions(tmp_path)
    assert (conditions["celsius"], conditions["mhz"], conditions["cooling"], conditions["throttles"]) == ({}, [], {}, 0)
    assert machine.warnings_of(conditions | {"load_average": 0}, conditions, 2) == []


@pytest.mark.parametrize("key", machine.COMPARED)
def test_whatever_milliseconds_depend_on_must_be_the_same(key, board):
    one = machine.describe(board)
    assert machine.differences(one, dict(one)) == []
    (difference,) = machine.differences(one, one | {key: "another"})
    assert difference.startswith(f"{key}: ")


def test_rapl_counts_joules_of_packages_and_survives_a_wrap_around(tmp_path):
    for name, zone, energy in (("package-0", "0", 900_000), ("core", "0_colon_0", 5), ("package-1", "1", 100_000)):
        write(
            tmp_path,
            **{
                f"intel-rapl_colon_{zone}__name": name,
                f"intel-rapl_colon_{zone}__energy_uj": energy,
                f"intel-rapl_colon_{zone}__max_energy_range_uj": 1_000_000,
            },
        )
    meter = Rapl(tmp_path)
    write(tmp_path, **{"intel-rapl_colon_0__energy_uj": 400_000, "intel-rapl_colon_1__energy_uj": 300_000})
    assert meter.joules() == pytest.approx(0.7)
    write(tmp_path, **{"intel-rapl_colon_1__energy_uj": 350_000})
    assert meter.joules() == pytest.approx(0.75)


def test_a_machine_without_counters_has_no_meter(tmp_path):
    assert open_meter(tmp_path) is None
