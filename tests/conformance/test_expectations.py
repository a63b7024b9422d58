"""Known failures: which results an entry covers, when it is stale, and that a file survives being updated."""

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from depthwise.conformance import expectations
from depthwise.conformance.case import parse
from depthwise.conformance.condition import condition
from depthwise.conformance.results import Result, Run
from parameterized import parameterized

PLAIN = parse("in=1x4x5x2 filter=3x2x2")
STRIDED = parse("in=1x4x5x2 filter=3x2x2 strides=2x1")


def found(*results, **versions):
    return Run(list(results), {"tf": {"tensorflow": "2.21.0", "onednn": "on", **versions}})


def failure(case=STRIDED, check="value", outcome="FAIL", target="tf"):
    return Result(target, case, check, outcome, detail="it is wrong")


ENTRY = '[[known]]\ntarget = "tf"\nreason = "r"\nwhen = "order == 1"\n'


class ConditionTest(unittest.TestCase):
    @parameterized.expand(
        [
            ("strides[0] != strides[1]", True),
            ("strides == (2, 1) and not dilations != (1, 1)", True),
            ("dtype in ('float16', 'bfloat16') or format == 'NCHW'", False),
            ("padding_kind == 'SAME' and 0 not in input", True),
            ("1 < filter[0] <= 3", True),
        ]
    )
    def test_reads(self, text, value):
        self.assertEqual(condition(text)(STRIDED), value)

    @parameterized.expand(
        [
            ("__import__('os')",),
            ("strides.count(1)",),
            ("strides +",),
            ("order == 2 and colour == 1",),
            ("[x for x in input]",),
            ("bad is 1",),
            ("strides",),
            ("3",),
            ("order == 1 and strides",),
            ("not strides",),
            ("seed == 3",),
            ("device == 'GPU'",),
            ("__class__ == 1",),
        ]
    )
    def test_refuses(self, text):
        with self.assertRaisesRegex(ValueError, "condition"):
            condition(text)


class ApplyTest(unittest.TestCase):
    def known(self, **changes):
        return expectations.Known(**{"target": "tf", "reason": "r", "when": "strides != (1, 1)", **changes})

    def test_a_known_failure_is_expected_and_no_other(self):
        run = found(failure(), failure(PLAIN), failure(target="ours"))
        marked, stale = expectations.apply(run, [self.known(issues=("tensorflow#1",))])
        self.assertEqual([result.outcome for result in marked.results], ["EXPECTED", "FAIL", "FAIL"])
        self.assertIn("tensorflow#1", marked.results[0].detail)
        self.assertEqual(stale, [])

    @parameterized.expand(
        [
            ({"checks": ("shape",)},),
            ({"outcomes": ("CRASH",)},),
            ({"onednn": False},),
            ({"tensorflow": "2.22"},),
            ({"device": "GPU"},),
            ({"when": "", "cases": (str(PLAIN),)},),
        ]
    )
    def test_an_entry_about_something_else_covers_nothing(self, changes):
        marked, _ = expectations.apply(found(failure()), [self.known(**changes)])
        self.assertEqual(marked.results[0].outcome, "FAIL")

    def test_a_listed_case_that_passes_is_stale(self):
        entry = self.known(when="", cases=(str(STRIDED),))
        _, stale = expectations.apply(found(failure(outcome="PASS")), [entry])
        self.assertEqual(len(stale), 1)

    def test_a_listed_case_that_fails_otherwise_is_stale(self):
        entry = expectations.Known("tf", "r", cases=(str(STRIDED),), outcomes=("FAIL",))
        marked, stale = expectations.apply(found(failure(outcome="CRASH")), [entry])
        self.assertEqual(([result.outcome for result in marked.results], len(stale)), (["CRASH"], 1))
        self.assertEqual(expectations.apply(found(failure(outcome="NOT RUN")), [entry])[1], [])

    def test_a_condition_is_stale_when_enough_passes_and_nothing_fails(self):
        passes = [failure(outcome="PASS")] * 20
        self.assertEqual(len(expectations.apply(found(*passes), [self.known()])[1]), 1)
        self.assertEqual(expectations.apply(found(*passes[:19]), [self.known()])[1], [])
        self.assertEqual(expectations.apply(found(*passes, failure()), [self.known()])[1], [])


class FileTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "known.toml"

    def test_update_keeps_comments_takes_out_what_ended_and_adds_what_is_new(self):
        self.path.write_text(
            "# why this file\n\n"
            f'[[known]]\ntarget = "tf"\ncases = ["{PLAIN}"]\nreason = "ended"\n\n'
            '[[known]]\ntarget = "ours"  # another\'s\nwhen = "strides != (1, 1)"\nreason = "stays"\n'
        )
        entries = expectations.read(self.path)
        run, _ = expectations.apply(found(failure(PLAIN, outcome="PASS"), failure(), failure(check="shape")), entries)
        self.assertEqual(expectations.update(self.path, run, entries), (1, 1))
        self.assertIn("# why this file", self.path.read_text())
        self.assertIn("# another's", self.path.read_text())
        again = expectations.read(self.path)
        self.assertEqual([entry.reason for entry in again], ["stays", "it is wrong"])
        self.assertEqual(again[1].checks, ("value", "shape"))
        marked, stale = expectations.apply(found(failure(), failure(check="shape")), again)
        self.assertEqual(({r.outcome for r in marked.results}, stale), ({"EXPECTED"}, []))

    def test_what_still_fails_of_a_stale_entry_is_kept_with_its_reason(self):
        run = found(failure(), failure(check="shape", outcome="PASS"))
        entry = expectations.Known("tf", "for that", cases=(str(STRIDED),))
        self.path.write_text(f'[[known]]\ntarget = "tf"\ncases = ["{STRIDED}"]\nreason = "for that"\n')
        marked, stale = expectations.apply(run, [entry])
        self.assertEqual(len(stale), 1)
        self.assertEqual(expectations.update(self.path, marked, [entry]), (1, 1))
        (left,) = again = expectations.read(self.path)
        self.assertIn("for that", left.reason)
        marked, stale = expectations.apply(run, again)
        self.assertEqual(([result.outcome for result in marked.results], stale), (["EXPECTED", "PASS"], []))

    def test_statistics_are_added_and_taken_out_like_cases(self):
        kind = parse("in=0x0x0x0 filter=1x1x1 dtype=float16 mode=graph")
        check = "statistics:input_grad"
        self.assertEqual(expectations.update(self.path, found(failure(kind, check=check)), []), (1, 0))
        (entry,) = expectations.read(self.path)
        eager = replace(kind, mode="eager")
        run = found(failure(kind, check=check), failure(eager, check=check), failure(kind, check="input_grad"))
        marked, stale = expectations.apply(run, [entry])
        self.assertEqual([result.outcome for result in marked.results], ["EXPECTED", "FAIL", "FAIL"])
        self.assertEqual(stale, [])
        passes = found(failure(kind, check=check, outcome="PASS"))
        self.assertEqual(len(expectations.apply(passes, [entry])[1]), 1)
        expectations.update(self.path, passes, [entry])
        self.assertEqual(expectations.read(self.path), [])

    def test_the_shipped_catalogue_reads(self):
        self.assertGreater(len(expectations.read(expectations.find("tf"))), 5)

    def test_a_file_that_was_emptied_can_be_added_to(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "known.toml"
            path.write_text("# by hand\nknown = []\n")
            for _ in range(2):
                self.assertEqual(expectations.update(path, found(failure()), expectations.read(path)), (1, 0))
                (entry,) = expectations.read(path)
                expectations.update(path, found(failure(outcome="PASS")), [entry])
                self.assertEqual(expectations.read(path), [])
            self.assertIn("# by hand", path.read_text())

    def test_a_new_file_is_made(self):
        self.assertEqual(expectations.update(self.path, found(failure()), []), (1, 0))
        self.assertEqual(len(expectations.read(self.path)), 1)

    @parameterized.expand(
        [
            ("known = 3 3", "TOML"),
            ("known = 3", "under .*known"),
            ('[known]\ntarget = "tf"\n', "under .*known"),
            ('[[known]]\ntarget = "tf"\nreason = "r"\n', "entry 1"),
            ('[[known]]\ntarget = "tf"\nreason = "r"\nwhen = "os"\n', "condition"),
            ('[[known]]\ntarget = "tf"\nreason = "r"\nwhen = "order == 1"\ncolour = 1\n', "colour"),
            ('[[known]]\ntarget = "tf"\nreason = "r"\ncases = ["in=1x5"]\n', "entry 1 .* case notation"),
            (ENTRY + 'checks = ["values"]\n', "`checks` of entry 1 .* value, .* got values"),
            (ENTRY + 'checks = "value"\n', "`checks` of entry 1 .* list of strings"),
            (ENTRY + "checks = []\n", "`checks` of entry 1 .* list of strings"),
            (ENTRY + 'outcomes = ["FAIL", "FAILS"]\n', "`outcomes` of entry 1 .* got FAILS"),
            (ENTRY + 'onednn = "on"\n', "`onednn` of entry 1 .* true or false"),
            (ENTRY + "tensorflow = 2.21\n", "`tensorflow` of entry 1 .* string"),
        ]
    )
    def test_refuses(self, text, words):
        self.path.write_text(text)
        with self.assertRaisesRegex(ValueError, words):
            expectations.read(self.path)
