import pytest

from vlp.ground.types import RecipeError
from vlp.plan.devices import DEVICES, find_device, known_as


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", None),
        ("AMD EPYC, 2 cores", None),
    ],
)
def test_what_a_driver_calls_a_device(name, known):
    assert known_as(name) is DEVICES.get(known)


def test_every_device_is_found_by_its_name_and_another_is_not():
    assert all(find_device(name) is device and device.name == name for name, device in DEVICES.items())
    with pytest.raises(RecipeError, match=r"--device: 'H10' is not known; did you mean 'H\d00'"):
        find_device("H10")
