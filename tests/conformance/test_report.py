"""The reports of one made-up run: what they say, that they can be read by others, and the page in a real browser."""

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree

from depthwise.conformance.case import parse
from depthwise.conformance.report import console, html, junit
from depthwise.conformance.report import json as as_json
from depthwise.conformance.report.header import header
from depthwise.conformance.results import Result, Run
from rich.console import Console

PLAIN = parse("in=1x4x5x2 filter=3x2x2")
DILATED = parse("in=1x4x5x2 filter=3x2x2 dilations=2x2 format=NCHW")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made_up():
    results = [
        Result("a", PLAIN, "value", "PASS", 0.25),
        Result("a", DILATED, "value", "FAIL", float("inf"), "value.shape=</script> & <b>"),
        Result("a", PLAIN, "statistics:value", "PASS", 0.9),
        Result("b", PLAIN, "value", "REFERENCE WRONG", 0.5, reference="FAIL"),
        Result("b", DILATED, "value", "UNSUPPORTED", detail="no dilations"),
        Result("b", parse("in=1x4x5x2 filter=3x2x2 bad=input-rank-3"), "refusal", "CRASH", detail="SIGABRT"),
        Result("b", parse("in=1x4x5x2 filter=3x2x2 device=GPU"), "value", "NOT RUN", detail="no GPU here"),
        Result("b", DILATED, "shape", "EXPECTED", detail="known", was="FAIL"),
    ]
    return Run(results, {"a": {"tensorflow": "2.21"}, "b": {}}, {"a": ["CPU"], "b": ["CPU"]}, {"c": "not installed"})


class ReportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "report"

    def test_console(self):
        screen = Console(record=True, width=120, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
        console.show(screen, made_up())
        text = screen.export_text()
        for expected in ("FAIL a value", "CRASH b refusal", "c: not installed", "no GPU on this machine"):
            self.assertIn(expected, text)
        self.assertRegex(text, r"NOT RUN +│ +0 │ +1 ")

    def test_many_targets_stand_a_few_abreast(self):
        names = [f"target-{n}" for n in range(5)]
        results = [Result(name, PLAIN, "value", "PASS", 0.25) for name in names]
        screen = Console(record=True, width=80, file=open("/dev/null", "w"))  # noqa: SIM115
        console.show(screen, Run(results, {name: {} for name in names}, {name: ["CPU"] for name in names}, {}))
        outcomes = screen.export_text().split("Checks by outcome")[1:]
        self.assertEqual([table.count("target-") for table in outcomes], [4, 1])

    def test_json(self):
        as_json.write(self.path, made_up(), header({"seed": 3}))
        document = json.loads(self.path.read_text(), parse_constant=self.fail)
        self.assertEqual(document["header"]["options"], {"seed": 3})
        self.assertIsNone(document["results"][1]["error_in_bounds"])
        self.assertEqual((document["results"][-1]["outcome"], document["results"][-1]["was"]), ("EXPECTED", "FAIL"))
        self.assertEqual(document["results"][2]["case"], "dtype=float32 mode=eager device=CPU")

    def test_junit(self):
        junit.write(self.path, made_up())
        suites = {suite.get("name"): suite.attrib for suite in ElementTree.parse(self.path).getroot()}
        self.assertEqual((suites["a"]["tests"], suites["a"]["failures"]), ("3", "1"))
        self.assertEqual((suites["b"]["errors"], suites["b"]["skipped"]), ("1", "3"))
        self.assertEqual(suites["c"]["errors"], "1")

    def test_junit_can_be_read_whatever_a_target_says(self):
        said = "\x1b[31mred\x1b[0m \x00 \ud800 \ue000 plain"
        junit.write(self.path, Run([Result("a", PLAIN, "value", "FAIL", detail=said)], incomplete={"b": said}))
        messages = [element.get("message") for element in ElementTree.parse(self.path).getroot().iter()]
        self.assertIn("FAIL: ?[31mred?[0m ? ? \ue000 plain", messages)

    def page(self):
        run = made_up()
        html.write(self.path, run, header({"seed": 3}), {run.results[1]: "print('<!--<script></script>')"})
        return self.path.read_text()

    def test_page_is_self_contained(self):
        page = self.page()
        self.assertNotRegex(page, r'(src|href)="')
        self.assertEqual(page.count("</script>"), 2)  # what a target says can't end the script
        self.assertNotIn("<!--", page)  # or swallow its end

    @unittest.skipUnless(BROWSER, "no Chromium on this machine")
    def test_a_cell_opens_its_cases_in_a_browser(self):
        opened = self.path.with_suffix(".html")
        click = "<script>document.querySelector('td.failed button').click()</script></body>"
        opened.write_text(self.page().replace("</body>", click))
        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", opened.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        dialog = shown[shown.index("<dialog") :]
        self.assertRegex(dialog, r'<dialog id="cases" open=""')
        for expected in (str(DILATED), "&lt;/script&gt; &amp; &lt;b&gt;", "script that reproduces it", "--target a"):
            self.assertIn(expected, dialog)
