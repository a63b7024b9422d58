"""Who may import whom: the rooms of the package stay apart."""

import ast
import sys
import unittest
from pathlib import Path

import depthwise.ops
from parameterized import parameterized

ROOT = Path(__file__).parents[1]
ROOMS = ("ops", "layers", "conformance")
LIBRARIES = {"numpy", "tensorflow"}
EVERYONE = {"__future__", *sys.stdlib_module_names}
BENEATH = ("ops.spec", "ops.geometry", "ops.sizes", "ops.mode", "ops.lowerings.base", "ops.lowerings.total")
"""What both lowerings that compute are built on."""

# A file or folder, the modules of this package that it may import, and the libraries. The longest path counts.
RULES = {
    "ops/autograph.py": ((), LIBRARIES),
    "ops/geometry.py": ((), {"tensorflow"}),
    "ops/mode.py": ((), {"tensorflow"}),
    "ops/spec.py": (("ops.geometry", "ops.sizes"), LIBRARIES),
    "ops/lowerings/base.py": (("ops.spec", "ops.mode"), LIBRARIES),
    "ops/lowerings/total.py": (("ops.mode",), {"tensorflow"}),
    "ops/lowerings/native": ((*BENEATH, "ops.lowerings.native"), LIBRARIES),
    "ops/lowerings/taps": ((*BENEATH, "ops.lowerings.taps"), LIBRARIES),
    "ops/lowerings/in_function.py": (("ops.spec", "ops.mode", "ops.lowerings.base"), LIBRARIES),
    "ops/lowerings/portable.py": (("ops.spec", "ops.mode", "ops.lowerings.base"), LIBRARIES),
    "ops/lowerings/__init__.py": (("ops.lowerings",), ()),
    "ops/sizes.py": (("ops.geometry",), {"tensorflow"}),
    "ops/differentiable.py": (("ops.mode",), {"tensorflow"}),
    "ops/mapped.py": ((*BENEATH, "ops.gradients"), LIBRARIES),
    "ops/gradients.py": (("ops.spec", "ops.sizes", "ops.lowerings", "ops.differentiable", "ops.mapped"), LIBRARIES),
    "ops/choose.py": (("ops.spec", "ops.mode", "ops.lowerings"), LIBRARIES),
    "ops/depthwise.py": (
        ("ops.autograph", "ops.spec", "ops.mode", "ops.gradients", "ops.lowerings", "ops.choose"),
        LIBRARIES,
    ),
    "ops/__init__.py": (("ops.depthwise", "ops.mode", "ops.choose", "ops.differentiable"), ()),
    "layers": (("ops", "layers"), {"tensorflow", "keras"}),
    "conformance": (("ops", "layers", "conformance"), None),
    "conformance/oracle.py": ((), {"numpy"}),
}


def rule_of(path):
    """The modules and libraries (None is any) that a file may import."""
    rooms = [room for room in RULES if path == ROOT / room or ROOT / room in path.parents]
    return RULES[max(rooms, key=len)] if rooms else None


def imports(path):
    """The absolute names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield from (f"{base}.{alias.name}" if base.startswith("depthwise") else base for alias in node.names)


def may_import(path, name):
    modules, libraries = rule_of(path)
    top = name.split(".")[0]
    if top != "depthwise":
        return top in EVERYONE or (top in libraries if libraries is not None else top not in NOT_INSTALLED)
    if not any(f"{name}.".startswith(f"depthwise.{module}.") for module in modules):
        return False
    # The other rooms know of ops what it offers to all.
    return path.is_relative_to(ROOT / "ops") or room_of(name) != "ops" or name.split(".")[2] in depthwise.ops.__all__


def room_of(name):
    return name.split(".")[1]


NOT_INSTALLED = {"tests", "benchmarks", "examples"}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


class ImportTest(unittest.TestCase):
    @parameterized.expand([(str(path.relative_to(ROOT)), path) for path in FILES])
    def test_rule(self, name, path):
        self.assertIsNotNone(rule_of(path), "a file needs a rule")
        for imported in imports(path):
            self.assertTrue(may_import(path, imported), f"{name} must not import {imported}")

    @parameterized.expand(
        [
            ("ops/geometry.py", "numpy"),
            ("ops/lowerings/taps/padded.py", "depthwise.ops.lowerings.native.cut"),
            ("layers/forward.py", "depthwise.ops.spec.in_order"),
            ("layers/forward.py", "depthwise.conformance.oracle"),
            ("conformance/oracle.py", "depthwise.ops.depthwise_conv2d"),
            ("conformance/oracle.py", "tensorflow"),
            ("conformance/run.py", "depthwise.ops.choose.TABLE"),
            ("conformance/run.py", "benchmarks.run"),
        ]
    )
    def test_what_is_forbidden_is_seen(self, path, name):
        self.assertFalse(may_import(ROOT / path, name))

    def test_imports_are_found(self):
        self.assertIn("depthwise.ops.geometry.Axis", list(imports(ROOT / "ops/spec.py")))
