"""Who may import whom: the rooms of the package stay apart."""

import ast
import sys
import unittest
from pathlib import Path

from parameterized import parameterized

OPS = Path(__file__).parents[2] / "ops"
LIBRARIES = {"numpy", "tensorflow", "__future__", *sys.stdlib_module_names}

# A file or folder of ops, and the modules of this package that it may import.
RULES = {
    "autograph.py": (),
    "geometry.py": (),
    "spec.py": ("geometry",),
    "lowerings/base.py": ("spec",),
    "lowerings/native": ("spec", "geometry", "lowerings.base", "lowerings.native"),
    "lowerings/taps": ("spec", "geometry", "lowerings.base", "lowerings.taps"),
    "lowerings/in_function.py": ("spec", "geometry", "lowerings.base"),
    "lowerings/portable.py": ("spec", "geometry", "lowerings.base"),
    "lowerings/__init__.py": ("lowerings",),
    "gradients.py": ("spec", "geometry", "lowerings"),
    "choose.py": ("spec", "gradients", "lowerings"),
    "depthwise.py": ("autograph", "spec", "gradients", "lowerings", "choose"),
    "__init__.py": ("depthwise",),
}


def imports(path):
    """The absolute names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield from (f"{base}.{alias.name}" if base.startswith("depthwise") else base for alias in node.names)


def files(room):
    path = OPS / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


class ImportTest(unittest.TestCase):
    @parameterized.expand(RULES.items())
    def test_rule(self, room, allowed):
        for path in files(room):
            for name in imports(path):
                if name.split(".")[0] in LIBRARIES:
                    continue
                right = any(f"{name}.".startswith(f"depthwise.ops.{module}.") for module in allowed)
                self.assertTrue(right, f"{path.relative_to(OPS)} must not import {name}")

    def test_every_file_has_a_rule(self):
        covered = {path for room in RULES for path in files(room)}
        self.assertEqual(set(OPS.rglob("*.py")) - covered, set())

    def test_a_forbidden_import_is_seen(self):
        self.assertIn("depthwise.ops.geometry.Axis", list(imports(OPS / "spec.py")))
