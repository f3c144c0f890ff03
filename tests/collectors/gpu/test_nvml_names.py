"""Whatever is asked of NVML, by the source or by the fake, is in NVIDIA's own bindings as it is asked."""

import ast
import inspect

import pynvml
import pytest
from tests.collectors.gpu.fake_nvml import CONSTANTS, FakeNvml

from farthing.collectors.gpu import nvml, nvml_device, nvml_events, nvml_queries
from farthing.collectors.gpu.nvml_queries import UINT_MAX, ULLONG_MAX, Code, EventReason, FieldId, field_value

MODULES = (nvml, nvml_device, nvml_events, nvml_queries)
FAKED = sorted(name for name in vars(FakeNvml) if name.startswith("nvml"))


def is_module(node):
    """Whether an expression is ``nvml``, ``self._nvml`` or ``self.nvml``, as the sources call the module."""
    return (isinstance(node, ast.Name) and node.id == "nvml") or (
        isinstance(node, ast.Attribute) and node.attr.strip("_") == "nvml"
    )


def used():
    """(module, line, name, how it is called, if it is) of every use of the bindings."""
    for module in MODULES:
        tree = ast.parse(inspect.getsource(module))
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_module(node.value):
                yield module.__name__, node.lineno, node.attr, calls.get(id(node))


USED = list(used())


def test_the_uses_are_found():
    """The search below sees the calls, or it would prove nothing."""
    names = {name for _, _, name, _ in USED}
    assert {"nvmlInit", "nvmlDeviceGetFieldValues", "nvmlEventSetWait_v2", "NVMLError", "NVML_CLOCK_SM"} <= names
    assert len({name for name in names if name.startswith("nvmlDevice")}) >= 25


@pytest.mark.parametrize(("module", "line", "name", "call"), USED, ids=[f"{use[2]}-{use[0]}:{use[1]}" for use in USED])
def test_every_name_is_in_the_bindings_and_takes_what_it_is_given(module, line, name, call):
    """A constant is there; a function takes these arguments, by place and by name."""
    found = getattr(pynvml, name)
    if call is not None and name != "NVMLError":
        given = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(found).bind(*call.args, **given)


@pytest.mark.parametrize("name", FAKED)
def test_every_function_of_the_fake_has_the_signature_of_the_real_one(name):
    """Parameters by name, order and default."""
    assert inspect.signature(getattr(FakeNvml(), name)) == inspect.signature(getattr(pynvml, name))


def test_the_fake_has_every_function_that_the_source_calls():
    """And takes only constants from the bindings, never a function that would need a driver."""
    functions = {name for _, _, name, call in USED if call is not None and name != "NVMLError"}
    assert functions == set(FAKED)
    assert not [
        name for name in dir(pynvml) if name.startswith(CONSTANTS) and inspect.isfunction(getattr(pynvml, name))
    ]


@pytest.mark.parametrize("code", Code)
def test_every_error_has_its_number(code):
    """nvmlReturn_t."""
    assert getattr(pynvml, f"NVML_ERROR_{code.name}") == code


@pytest.mark.parametrize("field", FieldId)
def test_every_field_has_its_number(field):
    """NVML_FI_DEV."""
    assert getattr(pynvml, f"NVML_FI_DEV_{field.name}") == field


@pytest.mark.parametrize("reason", EventReason)
def test_every_throttle_reason_has_its_bit_by_the_new_name_and_the_old(reason):
    """The rename of R535 kept the numbers."""
    assert getattr(pynvml, f"nvmlClocksEventReason{reason.name}") == reason
    assert getattr(pynvml, f"nvmlClocksThrottleReason{reason.name}") == reason


def test_every_reason_is_known():
    """A reason that NVIDIA adds to the new names has to be sorted."""
    assert sum(EventReason) == pynvml.nvmlClocksEventReasonAll


def test_the_stand_ins_for_no_value_are_the_bindings():
    """NVML_VALUE_NOT_AVAILABLE of both widths."""
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_uint.value == UINT_MAX
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value == ULLONG_MAX


@pytest.mark.parametrize(
    ("kind", "member", "value"),
    [
        ("DOUBLE", "dVal", 65.0),
        ("UNSIGNED_INT", "uiVal", 4_000_000_000),
        ("UNSIGNED_LONG", "ulVal", 5_000_000_000),
        ("UNSIGNED_LONG_LONG", "ullVal", 139_680_000),
        ("SIGNED_LONG_LONG", "sllVal", -5_000_000_000),
        ("SIGNED_INT", "siVal", -40),
        ("UNSIGNED_SHORT", "usVal", 65),
    ],
)
def test_a_field_is_read_by_its_type(kind, member, value):
    """The union holds the value in the member that the type names."""
    answer = pynvml.c_nvmlFieldValue_t()
    answer.valueType = getattr(pynvml, f"NVML_VALUE_TYPE_{kind}")
    setattr(answer.value, member, value)
    assert field_value(answer) == value
    assert field_value(answer, 1024) == value * 1024


@pytest.mark.parametrize("kind", ["UNSIGNED_INT", "UNSIGNED_LONG", "UNSIGNED_LONG_LONG"])
def test_a_field_without_a_value_is_none(kind):
    """All bits set, of the width of its type."""
    answer = pynvml.c_nvmlFieldValue_t()
    answer.valueType = getattr(pynvml, f"NVML_VALUE_TYPE_{kind}")
    answer.value.ullVal = UINT_MAX if kind == "UNSIGNED_INT" else ULLONG_MAX
    assert field_value(answer, 1024) is None


def test_a_field_of_a_type_that_is_not_known_is_none():
    """A newer driver may have one."""
    answer = pynvml.c_nvmlFieldValue_t()
    answer.valueType = pynvml.NVML_VALUE_TYPE_COUNT
    assert field_value(answer) is None
