"""The report as JUnit XML, which continuous integration systems show: a suite per target, a test per check."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from depthwise.conformance.results import CRASH, EXPECTED, FAIL, NOT_RUN, TIMEOUT, UNSUPPORTED, Result, Run

_ELEMENT = {
    FAIL: "failure",
    CRASH: "error",
    TIMEOUT: "error",
    EXPECTED: "skipped",
    UNSUPPORTED: "skipped",
    NOT_RUN: "skipped",
}


_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that XML cannot hold, as in the colours of a terminal."""


def write(path: Path, run: Run) -> None:
    """Writes a run to a file, which is overwritten if it exists."""
    root = ElementTree.Element("testsuites", name="depthwise-conformance")
    for target in dict.fromkeys(result.target for result in run.results):
        results = [result for result in run.results if result.target == target]
        elements = [_ELEMENT.get(result.outcome) for result in results]
        counts = {f"{kind}s" if kind != "skipped" else kind: elements.count(kind) for kind in set(_ELEMENT.values())}
        suite = ElementTree.SubElement(root, "testsuite", name=target, tests=str(len(results)))
        suite.attrib.update({name: str(count) for name, count in sorted(counts.items())})
        for result in results:
            _test(suite, result)
    for target, reason in run.incomplete.items():
        suite = ElementTree.SubElement(root, "testsuite", name=target, tests="1", errors="1")
        test = ElementTree.SubElement(suite, "testcase", classname=target, name="complete")
        ElementTree.SubElement(test, "error", message=_NOT_XML.sub("?", reason))
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _test(suite: ElementTree.Element, result: Result) -> None:
    test = ElementTree.SubElement(suite, "testcase", classname=result.target, name=f"{result.check} {result.subject}")
    if element := _ELEMENT.get(result.outcome):
        detail = _NOT_XML.sub("?", result.detail)
        message = f"{result.outcome}: {detail}"
        ElementTree.SubElement(test, element, message=message).text = f"{result.subject}\n{detail}"
