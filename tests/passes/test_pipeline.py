"""Pipelines as text, the registry, and the instruments of the manager."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.dtypes import DType
from planish.ir.errors import NotEquivalentError, PassError, PipelineError
from planish.ir.graph import Model, Node
from planish.ir.text.parser import parse_model
from planish.ir.types import TensorType
from planish.passes import registry
from planish.passes.core import Context, Fuel, GraphPass, Pass, RewritePass
from planish.passes.instruments import NumericsEach, PrintAfterChange, Reproducer, VerifyEach
from planish.passes.manager import Pipeline
from planish.passes.pipeline import Repeat, Together, parse_pipeline, pipeline_text
from planish.passes.pipelines import PIPELINES
from planish.passes.registry import Entry, entries, find
from planish.passes.rewrite import NodeRule, Rewriter
from planish.passes.rewrite.rule import Replacement


@dataclass
class Tune(RewritePass):
    """A pass with an option of every type."""

    name = "tune"
    on: bool = True
    count: int = 3
    ratio: float = 0.5
    label: str = "x"
    axes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    limit: int | None = None

    def rules(self) -> list[NodeRule]:
        return []


@dataclass
class ReluToAbs(RewritePass):
    name = "relu-to-abs"

    def rules(self) -> list[NodeRule]:
        class Swap(NodeRule):
            roots = ("Relu",)

            def apply(self, r: Rewriter, node: Node) -> Replacement:
                return r.Abs(node.inputs[0])

        return [Swap()]


@dataclass
class Plain(Pass):
    name = "plain"


PASSES: dict[str, type[Pass]] = {"tune": Tune, "plain": Plain, "relu-to-abs": ReluToAbs}


def lookup(name: str) -> type[Pass] | str:
    if name == "both":
        return "tune,plain"
    if name in PASSES:
        return PASSES[name]
    raise PipelineError(f"there is no pass or pipeline {name!r}")


def parsed(text: str) -> str:
    return pipeline_text(parse_pipeline(text, lookup))


# -- text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        ("tune", "tune"),
        (" tune , plain ", "tune,plain"),
        ("both,tune", "tune,plain,tune"),
        ("tune{count=3}", "tune"),
        ("tune{on=false,axes=[1,-2],ratio=1e-3}", "tune{on=false,ratio=0.001,axes=[1,-2]}"),
        ('tune{label="a b,\\"c\\""}', 'tune{label="a b,\\"c\\""}'),
        ("tune{limit=7}", "tune{limit=7}"),
        ("(tune,relu-to-abs)", "(tune,relu-to-abs)"),
        ("((tune),(relu-to-abs))", "(tune,relu-to-abs)"),
        ("(tune,plain)*", "(tune,plain)*"),
        ("((tune,relu-to-abs),plain)*", "((tune,relu-to-abs),plain)*"),
    ],
)
def test_a_pipeline_prints_back(text: str, printed: str) -> None:
    assert parsed(text) == printed
    assert parsed(printed) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tune,", "the pipeline ends early at column 6"),
        (",tune", "expected the name of a pass, found ',' at column 1"),
        ("tune plain", "expected ',' or 'the end'"),
        ("(tune", "expected ',' or ')'"),
        ("tune)", "expected ','"),
        ("tune{count}", "expected '='"),
        ("tune{count=}", "expected a value"),
        ("tune{count=many}", "'many' is not a valid int"),
        ("tune{on=yes}", "is not a valid bool"),
        ("tune{axes=[1", "the pipeline ends early"),
        ("tune{size=1}", "pass tune has no option 'size'"),
        ("(tune,plain)", "plain cannot run together with others"),
        ("both{x=1}", "both is a pipeline and takes no options"),
        ("tune;plain", "unexpected ';' at column 5"),
        ("nothing", "there is no pass or pipeline 'nothing'"),
        ("(" * 40 + "tune" + ")" * 40, "nested more than 32 deep"),
    ],
)
def test_malformed_text_says_where_and_what(text: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        parse_pipeline(text, lookup)
    assert message in str(caught.value)


options: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "on": st.booleans(),
        "count": st.integers(-(10**9), 10**9),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
        "label": st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc"))),
        "axes": st.lists(st.integers(-9, 9)).map(tuple),
        "names": st.lists(st.text(st.sampled_from('ab ,[]"\\=-'))).map(tuple),
        "limit": st.integers(0, 9),
    },
)
passes: st.SearchStrategy[RewritePass] = options.map(lambda kw: Tune(**kw))
steps = st.recursive(
    passes | st.builds(Plain),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(Repeat) | st.lists(passes, min_size=1, max_size=3).map(Together)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=4))
def test_any_pipeline_parses_back_to_itself(made: list[Any]) -> None:
    text = pipeline_text(made)
    again = parse_pipeline(text, lookup)
    assert again == made
    assert pipeline_text(again) == text


# -- running


def chain() -> Model:
    return parse_model("graph @main(%x: f32[2]) { %a = Relu(%x)\n %b = Relu(%a)\n %y = Exp(%b)\n return %y }")


def test_the_record_says_what_each_pass_did() -> None:
    record = Pipeline([ReluToAbs(), Tune()]).run(chain(), Context())
    assert [(p.name, p.changes > 0, p.nodes_before, p.nodes_after) for p in record.passes] == [
        ("relu-to-abs", True, 3, 3),
        ("tune", False, 3, 3),
    ]
    assert record.passes[0].hits == {"relu-to-abs/Swap": 2}


def test_repeating_ends_when_nothing_changes() -> None:
    runs: list[str] = []

    @dataclass
    class Count(Pass):
        name = "count"
        budget: int = 0
        place: int = 0

        def run(self, model: Model, r: Rewriter) -> None:
            runs.append(f"count{self.budget}")
            if self.budget:
                self.budget -= 1
                r.note_change("one")

    Pipeline([Repeat([Count(2), Count(0), Count(0, 1)])]).run(chain())
    # The others had nothing to do after the first one's change, and what changed last need not run again.
    assert runs == ["count2", "count0", "count0"]
    runs.clear()
    Pipeline([Repeat([Count(0), Count(1), Count(0, 1)])]).run(chain())
    assert runs == ["count0", "count1", "count0", "count0"]
    runs.clear()
    Pipeline([Repeat([Count(0), Count(0, 1)])]).run(chain())
    assert runs == ["count0", "count0"]


def test_what_left_this_model_alone_is_not_run_again() -> None:
    """Neither in the same group nor in another one, unless something changed, or reasons are wanted."""
    runs: list[str] = []

    @dataclass
    class Look(Pass):
        name = "look"
        at: int = 0

        def run(self, model: Model, r: Rewriter) -> None:
            runs.append(f"look{self.at}")

    steps = [Look(1), Look(2), Look(1), ReluToAbs(), Look(1), Repeat([Look(1), Look(2)]), Look(2)]
    record = Pipeline(steps).run(chain())
    assert runs == ["look1", "look2", "look1", "look2"]
    assert [p.name for p in record.passes].count("look{at=1}") == 4  # the record has them all
    assert all(p.nodes_before == p.nodes_after == 3 for p in record.passes)
    runs.clear()
    Pipeline([Look(1), Look(1)]).run(chain(), Context(trace=True))
    assert runs == ["look1", "look1"]


def test_no_fuel_stops_repetition() -> None:
    ctx = Context(fuel=Fuel(1))
    model = chain()
    Pipeline([Repeat([ReluToAbs()])]).run(model, ctx)
    assert sum(n.op == "Abs" for n in model.graph) == 1


def test_an_unexpected_exception_names_the_pass() -> None:
    @dataclass
    class Broken(GraphPass):
        name = "broken"

        def run_graph(self, graph: Any, r: Rewriter) -> None:
            raise KeyError("oops")

    with pytest.raises(PassError) as caught:
        Pipeline([Broken()]).run(chain())
    assert "error[broken]: KeyError: 'oops'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


# -- instruments


@dataclass
class Vandal(Pass):
    """Breaks the graph behind the rewriter's back."""

    name = "vandal"

    def run(self, model: Model, r: Rewriter) -> None:
        first, *_, last = list(model.graph)
        first.set_input(0, last.output)
        r.note_change("a cycle")


def test_verify_each_catches_a_broken_pass() -> None:
    with pytest.raises(PassError, match="the graph is broken after this pass") as caught:
        Pipeline([ReluToAbs(), Vandal()]).run(chain(), instruments=[VerifyEach()])
    assert caught.value.where == "vandal"


def test_a_wrong_type_is_caught_too() -> None:
    @dataclass
    class Liar(Pass):
        name = "liar"

        def run(self, model: Model, r: Rewriter) -> None:
            next(iter(model.graph)).output.type = TensorType(DType.F64, (2,))
            r.note_change("a type")

    with pytest.raises(PassError, match="broken after this pass"):
        Pipeline([Liar()]).run(chain(), instruments=[VerifyEach()])


def test_print_after_change_prints_only_changes() -> None:
    out: list[str] = []
    Pipeline([ReluToAbs(), Tune()]).run(chain(), instruments=[PrintAfterChange(out.append)])
    assert len(out) == 1
    assert out[0].startswith("// after relu-to-abs: ")
    assert "Abs(%x)" in out[0]


def test_numerics_each_names_the_pass_that_changed_results() -> None:
    @dataclass
    class ExpToNeg(RewritePass):
        name = "exp-to-neg"

        def rules(self) -> list[NodeRule]:
            class Swap(NodeRule):
                roots = ("Exp",)

                def apply(self, r: Rewriter, node: Node) -> Replacement:
                    return r.Neg(node.inputs[0])

            return [Swap()]

    def executor(model: Model, sample: Any) -> list[Any]:
        return [[n.op for n in model.graph if n.op in ("Exp", "Neg")]]

    def compare(a: Any, b: Any) -> str | None:
        return None if a == b else f"{a} became {b}"

    ctx = Context(executor=executor, samples=[{}])
    with pytest.raises(NotEquivalentError, match="outputs differ after this pass") as caught:
        Pipeline([ReluToAbs(), ExpToNeg()]).run(chain(), ctx, [NumericsEach(compare)])
    assert caught.value.where == "exp-to-neg"


def test_a_reproducer_replays_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: Entry(name, "test", "test", __name__, None) for name in ("vandal", "relu-to-abs")}
    known = {**entries(), **made}
    monkeypatch.setattr(registry, "entries", lambda: known)
    monkeypatch.setattr(Entry, "load", lambda self: {"vandal": Vandal, "relu-to-abs": ReluToAbs}[self.name])
    reproducer = Reproducer(chain, tmp_path)
    with pytest.raises(PassError) as caught:
        Pipeline("relu-to-abs,vandal").run(chain(), Context(), [VerifyEach(), reproducer])
    assert reproducer.path is not None
    assert str(reproducer.path) in str(caught.value)
    text = reproducer.path.read_text()
    assert "// pipeline: vandal" in text
    assert "Abs" in text  # the model as the failing pass got it
    with pytest.raises(PassError, match="broken after this pass"):
        Pipeline("vandal").run(parse_model(text), Context(), [VerifyEach()])


# -- the registry


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PipelineError) as caught:
        find("remove-identiti")
    assert "did you mean remove-identity" in str(caught.value)


def test_a_clash_names_both_owners() -> None:
    found: dict[str, Entry] = {}
    registry._add(found, Entry("x", "clean", "planish", "planish.passes.clean.x", None))
    with pytest.raises(PipelineError) as caught:
        registry._add(found, Entry("x", "plugin", "other-package", "other.x", "X"))
    assert "one of planish" in str(caught.value)
    assert "one of other-package" in str(caught.value)


def test_a_plugin_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(PipelineError, match="pass ghost of other-package cannot be loaded"):
        Entry("ghost", "plugin", "other-package", "no.such.module", "Ghost").load()
    with pytest.raises(PipelineError, match="is not a Pass class"):
        Entry("ghost", "plugin", "other-package", "json", "JSONDecoder").load()


def test_all_passes_and_pipelines_load_and_print_back() -> None:
    for name in [*entries(), *PIPELINES]:
        pipeline = Pipeline(name)
        assert str(Pipeline(str(pipeline))) == str(pipeline)


OWN = [e for e in entries().values() if e.owner == "planish"]


@pytest.mark.parametrize("entry", OWN, ids=lambda e: e.name)
def test_a_pass_file_documents_itself(entry: Entry) -> None:
    """The docstring is the pass's page: mathematics first, then the fields."""
    import importlib

    doc = importlib.import_module(entry.module).__doc__ or ""
    assert doc.splitlines()[0].rstrip().endswith((".", ":")), "the first line is a sentence"
    fields = [f for f in ("**Why**", "**Needs**", "**Leaves**", "**Numbers**") if f in doc]
    assert fields == ["**Why**", "**Needs**", "**Leaves**", "**Numbers**"]
    positions = [doc.index(f) for f in fields]
    assert positions == sorted(positions)
    numbers = entry.load().numbers
    assert numbers.value in doc[positions[-1] :].split("**Source**")[0], f"Numbers says other than {numbers}"
