"""Models for planted faults that random ones show too rarely."""

from __future__ import annotations

HOSTS: dict[str, str] = {
    "drop-expand": """
graph @main(%x: f32[2,1,4]) {
  %a = Relu(%x)
  %s: i64[3] = const dense<[2, 3, 4]>
  %e = Expand(%a, %s)
  %y = Neg(%e)
  return %y
}
""",
    "cancel-any-transposes": """
graph @main(%x: f32[3,3,3]) {
  %a = Relu(%x)
  %b = Transpose(%a) {perm = [0, 2, 1]}
  %c = Transpose(%b) {perm = [1, 0, 2]}
  %y = Neg(%c)
  return %y
}
""",
    "reduce-another-axis": """
model ir=8 opset {"" = 13}
graph @main(%x: f32[2,3,3]) {
  %a = Neg(%x)
  %m = ReduceMean(%a) {axes = [1]}
  %y = Sub(%a, %m)
  return %y
}
""",
    "compose-permutations-backwards": """
graph @main(%x: f32[N,4,4,4]) {
  %a = Relu(%x)
  %b = Transpose(%a) {perm = [0, 2, 3, 1]}
  %c = Transpose(%b) {perm = [0, 2, 1, 3]}
  %y = Neg(%c)
  return %y
}
""",
    "reuse-shared-weights": """
graph @main(%x: f32[N,4]) {
  %w: f32[4,3] = const rand<1>
  %b: f32[3] = const rand<2>
  %one: f32[] = const dense<1>
  %g = Gemm(%x, %w, %b)
  %y = Add(%g, %one)
  %z = Relu(%g)
  return %y, %z
}
""",
    "gather-along-the-first-axis": """
graph @main(%x: f32[3,3]) {
  %i: i64[3] = const dense<[2, 0, 1]>
  %g = Gather(%x, %i) {axis = 1}
  %y = Neg(%g)
  return %y
}
""",
    "merge-ignoring-attributes": """
graph @main(%x: f32[N,4]) {
  %a = Relu(%x)
  %b = Elu(%a)
  %s = Softmax(%b) {axis = -1}
  %t = Softmax(%b) {axis = 0}
  %y = Sub(%s, %t)
  return %y
}
""",
    "merge-narrowing-casts": """
graph @main(%x: f32[N,4]) {
  %a = Neg(%x)
  %b = Cast(%a) {to = 7}
  %c = Cast(%b) {to = 1}
  %y = Abs(%c)
  return %y
}
""",
}
