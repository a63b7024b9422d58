"""Reads XLA's HLO text: which instructions a compiled program runs one after the other, and what they move."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "c64": 8}
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(?P<name>\S+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[\w\-]+)\((?P<rest>.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
FREE = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")
"""Opcodes that cost no pass over memory."""


@dataclass(frozen=True)
class Instruction:
    """One line of HLO: its name, opcode, result bytes, and the names of its operands."""

    name: str
    opcode: str
    bytes: int
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """The computations of a module by name; `entry` is the one that runs."""

    computations: dict[str, list[Instruction]]
    entry: str

    def passes(self) -> Iterator[tuple[Instruction, int]]:
        """What the entry runs one after the other, each with the bytes that it reads and writes."""
        sizes = {i.name: i.bytes for i in self.computations[self.entry]}
        for i in self.computations[self.entry]:
            if i.opcode not in FREE:
                yield i, i.bytes + sum(sizes.get(name, 0) for name in dict.fromkeys(i.operands))

    def opcodes(self) -> set[str]:
        """All opcodes, inside of fusions too."""
        return {i.opcode for instructions in self.computations.values() for i in instructions}


def read(text: str) -> Program:
    """The program that a module's text describes."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if line.rstrip().endswith("{") and not line.startswith((" ", "HloModule")):
            current = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (match := _INSTRUCTION.match(line)):
            operands = tuple(re.findall(r"%([\w.\-]+)", match["rest"].partition(")")[0]))
            computations[current].append(Instruction(match["name"], match["opcode"], _size(match["shape"]), operands))
    return Program(computations, entry)


def _size(shape: str) -> int:
    return sum(
        _BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in _ARRAY.findall(shape)
    )
