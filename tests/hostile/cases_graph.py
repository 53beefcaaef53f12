"""Graphs that are none: names, order, nesting, functions, versions."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

from .parts import BOOL, I64, SURVIVES, Case, array, info, model, node, sound, spoiled, written

Model = onnx.ModelProto
AND_OUT = [info("y", shape=None)]


def _first(m: Model) -> onnx.NodeProto:
    return m.graph.node[0]


def _nested(depth: int) -> Model:
    """If in If; protobuf copies nothing so deep, so it grows in place."""
    m = model([], tensors=[array("flag", True)], outputs=[info("x")])
    graph = m.graph
    for i in range(depth):
        inner = graph.node.add(op_type="If", input=["flag"], output=[f"q{i}"], name=f"if{i}")
        if i:
            graph.output.add(name=f"q{i}")
        other = inner.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g
        other.name = "else"
        other.node.add(op_type="Identity", input=["x"], output=["e"])
        other.output.add(name="e")
        graph = inner.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.name = f"then{i}"
    graph.node.add(op_type="Neg", input=["x"], output=["last"])
    graph.output.add(name="last")
    return m


def _functions(calls: dict[str, list[str]]) -> Model:
    """Functions of domain ``f`` and whom each calls; the main graph calls the first."""
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    m = model([node(next(iter(calls)), ["x"], ["y"], domain="f", name="call")])
    m.opset_import.append(imports[1])
    for name, callees in calls.items():
        chain = ["a", *(f"t{i}" for i in range(len(callees)))]
        nodes = [node(c, [chain[i]], [chain[i + 1]], domain="f") for i, c in enumerate(callees)]
        nodes.append(node("Neg", [chain[-1]], ["b"]))
        m.functions.append(helper.make_function("f", name, ["a"], ["b"], nodes, imports))
    return m


def _recursive_in_branch() -> Model:
    """A function that calls itself inside a branch."""
    m = _functions({"f": []})
    call = helper.make_graph([node("f", ["a"], ["o"], domain="f")], "then", [], [info("o", shape=None)])
    other = helper.make_graph([node("Neg", ["a"], ["p"])], "else", [], [info("p", shape=None)])
    flag = node("Constant", [], ["flag"], value=array("v", True))
    m.functions[0].node.insert(0, node("If", ["flag"], ["z"], then_branch=call, else_branch=other))
    m.functions[0].node.insert(0, flag)
    return m


def _double_if(depth: int) -> Model:
    """Both branches of each If hold the next: 2^depth bodies."""

    def body(level: int, name: str) -> onnx.GraphProto:
        out = f"o{level}{name}"
        if not level:
            return helper.make_graph([node("Neg", ["x"], [out])], name, [], [info(out, shape=None)])
        inner = node("If", ["flag"], [out], then_branch=body(level - 1, "t"), else_branch=body(level - 1, "e"))
        return helper.make_graph([inner], name, [], [info(out, shape=None)])

    top = node("If", ["flag"], ["y"], then_branch=body(depth, "t"), else_branch=body(depth, "e"))
    return model([top], inputs=[info("x"), info("flag", BOOL, [])])


def _if(**branches: onnx.GraphProto) -> Model:
    made = node("If", ["flag"], ["y"], name="choice")
    made.attribute.extend(helper.make_attribute(name, body) for name, body in branches.items())
    return model([made], inputs=[info("x"), info("flag", BOOL, [])])


def _branch(outputs: int = 1) -> onnx.GraphProto:
    names = [f"o{i}" for i in range(outputs)]
    return helper.make_graph(
        [node("Neg", ["x"], [n]) for n in names], "branch", [], [info(n, shape=None) for n in names]
    )


def _cycle_through_body() -> Model:
    body = helper.make_graph([node("Neg", ["b"], ["o"])], "branch", [], [info("o", shape=None)])
    nodes = [
        node("If", ["flag"], ["a"], name="choice", then_branch=body, else_branch=body),
        node("Neg", ["a"], ["b"], name="back"),
        node("Add", ["b", "x"], ["y"]),
    ]
    return model(nodes, tensors=[array("flag", True)])


def _scan(states: int) -> Model:
    body = helper.make_graph(
        [node("Add", ["s", "e"], ["s2"]), node("Identity", ["e"], ["r"])],
        "body",
        [info("s"), info("e")],
        [info("s2"), info("r")],
    )
    scan = node("Scan", ["x"] * states + ["m"], ["y", "rows"], name="scan", body=body, num_scan_inputs=1)
    return model([scan], inputs=[info("x"), info("m", shape=(3, 2))])


def _loop(inputs: int, outputs: int) -> Model:
    ins = [info("i", I64, []), info("c", BOOL, []), *(info(f"v{k}") for k in range(inputs))]
    nodes = [node("Identity", ["c"], ["c2"]), *(node("Neg", ["x"], [f"w{k}"]) for k in range(outputs))]
    body = helper.make_graph(nodes, "body", ins, [info("c2", BOOL, []), *(info(f"w{k}") for k in range(outputs))])
    return model([node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)], tensors=[array("n", 2)])


def _rename(m: Model, new: str) -> None:
    m.graph.node[0].input[0] = new
    m.graph.input[0].name = new


def _two_attributes(m: Model) -> None:
    _first(m).attribute.extend([helper.make_attribute("axis", 1)] * 2)


def _not_utf8() -> bytes:
    return sound().SerializeToString().replace(b"\x03sum", b"\x03\xff\xfe\xfd")


def _opset(m: Model, version: int) -> None:
    m.opset_import[0].version = version


def _cycle(m: Model) -> None:
    m.graph.node.extend([node("Neg", ["b"], ["a"], name="n1"), node("Neg", ["a"], ["b"], name="n2")])


def _shadow() -> Model:
    body = helper.make_graph([node("Neg", ["x"], ["z"]), node("Neg", ["z"], ["x"])], "branch", [], [info("x")])
    return _if(then_branch=body, else_branch=_branch())


def _long_name(m: Model) -> None:
    _rename(m, "n" * (1 << 20))


def _many(m: Model) -> None:
    del m.graph.node[:]
    m.graph.node.extend([node("Neg", ["x"], ["y" if i == 999_999 else f"y{i}"]) for i in range(1_000_000)])


def _training(m: Model) -> None:
    m.training_info.add()


def _no_domain(m: Model) -> None:
    m.opset_import[0].domain = "else"


def _output_twice(m: Model) -> None:
    m.graph.output.append(m.graph.output[0])


def _empty_attribute_name(m: Model) -> Any:
    _first(m).attribute.add(name="", type=onnx.AttributeProto.INT, i=1)


def _value_info(m: Model) -> None:
    m.graph.value_info.append(info("ghost"))
    m.graph.value_info.append(info("y", TensorProto.STRING, [7]))


CASES = [
    Case(
        "undefined-operand",
        "an operand that nothing defines",
        spoiled(lambda m: _first(m).input.append("ghost")),
        "node Add 'sum' takes 'ghost', which nothing defines",
    ),
    Case(
        "undefined-output",
        "an output that nothing makes",
        spoiled(lambda m: m.graph.output.add(name="ghost")),
        "output of graph 'main' takes 'ghost'",
    ),
    Case("cycle", "two nodes that need each other", spoiled(_cycle), "a cycle of 2 nodes"),
    Case(
        "self-loop",
        "a node that needs itself",
        spoiled(lambda m: _first(m).input.append("y")),
        "a cycle of 1 nodes: Add 'sum'",
    ),
    Case(
        "cycle-body",
        "a cycle through what a branch captures",
        written(_cycle_through_body),
        "a cycle of 2 nodes.*'choice'",
    ),
    Case(
        "output-defined-twice",
        "two nodes that make one value",
        spoiled(lambda m: m.graph.node.append(_first(m))),
        "node Add 'sum', 'y' is defined twice",
    ),
    Case(
        "input-redefined",
        "a node that makes an input",
        spoiled(lambda m: _first(m).output.append("x")),
        "'x' is defined twice",
    ),
    Case(
        "inputs-alike",
        "two inputs of one name",
        spoiled(lambda m: m.graph.input.append(m.graph.input[0])),
        "'x' is defined twice",
    ),
    Case(
        "outputs-alike", "two outputs of one name", spoiled(_output_twice), "two outputs of graph 'main' are named 'y'"
    ),
    Case(
        "initializers-alike",
        "two initializers of one name",
        spoiled(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "two initializers .* 'w'",
    ),
    Case(
        "input-nameless",
        "an input without a name",
        spoiled(lambda m: m.graph.input.add()),
        "an input of graph 'main' has no name",
    ),
    Case(
        "output-nameless",
        "an output without a name",
        spoiled(lambda m: m.graph.output.add()),
        "an output of graph 'main' has no name",
    ),
    Case(
        "initializer-nameless",
        "an initializer without a name",
        spoiled(lambda m: setattr(m.graph.initializer[0], "name", "")),
        "an initializer of graph 'main' has no name",
    ),
    Case("name-not-utf8", "a node's name in another encoding", lambda f: _bytes(f, _not_utf8()), "is not UTF-8"),
    Case(
        "name-control",
        "a name with a line break, a null character and quotes",
        spoiled(lambda m: _rename(m, 'a\n"b\0c')),
        SURVIVES,
    ),
    Case("name-long", "a name of a megabyte", spoiled(_long_name), SURVIVES),
    Case(
        "name-shadowed",
        "a body that defines a name it took from outside",
        written(_shadow),
        "name 'x' means an outer value",
    ),
    Case(
        "operator-nameless",
        "a node without an operator",
        spoiled(lambda m: setattr(_first(m), "op_type", "")),
        "node  'sum' has operator type ''",
    ),
    Case(
        "operator-return",
        "planish's own operator",
        spoiled(lambda m: setattr(_first(m), "op_type", "return")),
        "has operator type 'return'",
    ),
    Case(
        "operator-unknown",
        "an operator that the standard does not have",
        spoiled(lambda m: setattr(_first(m), "op_type", "Frobnicate")),
        "no operator Frobnicate",
    ),
    Case(
        "domain-unknown",
        "an operator of a domain of its own",
        spoiled(lambda m: setattr(_first(m), "domain", "evil")),
        SURVIVES,
        after="evil",
    ),
    Case(
        "domain-missing",
        "no version of the standard's operators",
        spoiled(_no_domain),
        "operator 'Add' is of domain 'ai.onnx'",
    ),
    Case(
        "opset-none",
        "no operator sets at all",
        spoiled(lambda m: m.ClearField("opset_import")),
        "imports no operator set",
    ),
    Case("opset-zero", "version 0 of the operators", spoiled(lambda m: _opset(m, 0)), "imports version 0"),
    Case(
        "opset-negative",
        "a negative version",
        spoiled(lambda m: _opset(m, -(1 << 63))),
        "imports version -9223372036854775808",
    ),
    Case(
        "opset-absurd",
        "a version of the year 3000",
        spoiled(lambda m: _opset(m, (1 << 63) - 1)),
        "imports version 9223372036854775807",
    ),
    Case(
        "opset-twice",
        "two versions of one domain",
        spoiled(lambda m: m.opset_import.add(domain="ai.onnx", version=7)),
        "in versions 21 and 7",
    ),
    Case("ir-version-none", "no IR version", spoiled(lambda m: m.ClearField("ir_version")), "IR version 0"),
    Case(
        "ir-version-absurd",
        "IR version 2^62",
        spoiled(lambda m: setattr(m, "ir_version", 1 << 62)),
        "IR version 4611686018427387904",
    ),
    Case(
        "ir-version-negative", "a negative IR version", spoiled(lambda m: setattr(m, "ir_version", -3)), "IR version -3"
    ),
    Case("training", "a training algorithm", spoiled(_training), "training_info"),
    Case("nesting-deep", "70 bodies within each other", written(lambda: _nested(70)), "protobuf says|nested over"),
    Case("nesting-odd", "20 bodies within each other", written(lambda: _nested(20)), SURVIVES),
    Case("nesting-double", "2^12 bodies, each twice in the one around it", written(lambda: _double_if(11)), SURVIVES),
    Case(
        "function-recursive",
        "a function that calls itself",
        written(lambda: _functions({"f": ["f"]})),
        "in a circle: f -> f",
    ),
    Case(
        "function-recursive-branch",
        "a function that calls itself in a branch",
        written(_recursive_in_branch),
        "in a circle: f -> f",
    ),
    Case(
        "functions-mutual",
        "functions that call each other",
        written(lambda: _functions({"f": ["g"], "g": ["h"], "h": ["g"]})),
        "circle: g -> h -> g",
    ),
    Case(
        "functions-deep",
        "80 functions, each calling the next",
        written(lambda: _functions({f"f{i}": [f"f{i + 1}"] for i in range(80)} | {"f80": []})),
        "over 64 deep",
    ),
    Case(
        "functions-laughs",
        "20 functions, each calling the next four times",
        written(lambda: _functions({f"f{i}": [f"f{i + 1}"] * 4 for i in range(20)} | {"f20": []})),
        "with all function calls expanded",
    ),
    Case(
        "functions-alike",
        "two functions of one name",
        written(lambda: _with_twin()),
        "function f::'f' has no name or is defined twice",
    ),
    Case("if-no-else", "If without its else", written(lambda: _if(then_branch=_branch())), "choice|else_branch"),
    Case(
        "if-arity",
        "branches that give different numbers of results",
        written(lambda: _if(then_branch=_branch(), else_branch=_branch(2))),
        "choice|branch",
    ),
    Case("scan-arity", "Scan with more states than its body", written(lambda: _scan(3)), "scan"),
    Case("loop-arity-in", "Loop whose body takes more than it is given", written(lambda: _loop(3, 1)), "loop"),
    Case("loop-arity-out", "Loop whose body gives less than it must", written(lambda: _loop(1, 0)), "loop"),
    Case("attribute-twice", "an attribute stated twice", spoiled(_two_attributes), "two attributes 'axis'"),
    Case("attribute-nameless", "an attribute without a name", spoiled(_empty_attribute_name), "sum"),
    Case("million-nodes", "a million nodes in 20 MB", spoiled(_many), "over .* nodes and outputs"),
    Case("contradiction", "declared types that the nodes contradict", spoiled(_value_info), SURVIVES),
]


def _bytes(folder: Any, data: bytes) -> Any:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


def _with_twin() -> Model:
    m = _functions({"f": []})
    m.functions.append(m.functions[0])
    return m
