"""Refuses `jit_compile`, since XLA has no sparse product."""

from collections.abc import Callable
from collections.abc import Iterator

_SPARSE = "SparseMatrixMatMul"
_COMPILED = "_XlaMustCompile"


def check_not_compiled(signatures: dict[str, Callable]) -> None:
    """Raises ValueError if XLA would compile a sparse product.

    Args:
        signatures: Name -> `tf.function` with one signature.
    """
    for name, function in signatures.items():
        if _compiles_products(function.get_concrete_function()):
            raise ValueError(
                "`signatures` must not be compiled with `jit_compile=True` "
                "where kernels are sparse, because XLA has no sparse product. "
                f"Received: signature '{name}'. Remove `jit_compile`, or "
                "export with sparse_kernels=False"
            )


def _compiles_products(function):
    graph = function.graph.as_graph_def()
    bodies = {f.signature.name: f.node_def for f in graph.library.function}
    compiled = {
        f.signature.name for f in graph.library.function if f.attr[_COMPILED].b
    }
    if function.function_def.attr[_COMPILED].b:
        return _holds(graph.node, bodies, set())
    for nodes in (graph.node, *bodies.values()):
        for node in nodes:
            inside = [*_called(node)]
            is_compiled = node.attr[_COMPILED].b or any(
                name in compiled for name in inside
            )
            if is_compiled and any(
                _holds(bodies.get(name, ()), bodies, set()) for name in inside
            ):
                return True
    return False


def _holds(nodes, bodies, seen):
    for node in nodes:
        if node.op == _SPARSE:
            return True
        for name in _called(node):
            if name not in seen:
                seen.add(name)
                if _holds(bodies.get(name, ()), bodies, seen):
                    return True
    return False


def _called(node) -> Iterator[str]:
    """Yields the names of the functions that a node may call."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)
