"""The house's layering and its few bans, read from the syntax tree of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from zoo.entry import load_registry

ROOT = Path(zoo.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py"))
TREES = {".".join(("zoo", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): ast.parse(path.read_text()) for path in FILES}
BELOW = ("zoo.tensors", "zoo.statistics", "zoo.errors", "zoo.paths", "zoo.seeds", "zoo.yamlio")
GRAMMAR = (
    "zoo.coordinates", "zoo.entry", "zoo.compat", "zoo.context_rules", "zoo.alignment_rules", "zoo.advantage_rules", "zoo.asked_rules", "zoo.movement_rules",
    "zoo.turn_rules", "zoo.explore_rules",
    "zoo.placement", "zoo.schema", "zoo.method", "zoo.views", "zoo.formulas", "zoo.relatives", "zoo.taxonomy",
)  # fmt: skip
NUMBERS = ("zoo.records", "zoo.record_types", "zoo.scores", "zoo.score_frame", "zoo.stats", "zoo.tables", "zoo.figures")
# An anchor's id is also the name of a scorer, and of the model that an evaluation is of.
NAMES_OF_SCORERS = {"student", "teacher"}
# `no_op` is every comparison's test of the harness itself: a table remarks where it differs from the student.
NULL_TEST = {("zoo.table_layouts", "no_op")}


def imported(module: str) -> Iterator[tuple[str, int]]:
    """Every module of the package that a module imports, at the top or inside a function, with the line."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "zoo")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import; write it in full"
            if node.module and node.module.split(".")[0] == "zoo":
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from ((name if name in TREES else node.module, node.lineno) for name in whole)


def inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def modules(*packages: str) -> list[str]:
    return [module for module in TREES if inside(module, *packages)]


def offences(sources: list[str], *forbidden: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Imports from one set of packages into another, but for those allowed."""
    found = [(source, target, line) for source in sources for target, line in imported(source)]
    return [f"{source}:{line} imports {target}" for source, target, line in found if inside(target, *forbidden) and not inside(target, *allowed)]


def test_the_walk_sees_the_package() -> None:
    assert {"zoo", "zoo.entry", "zoo.components.base", "zoo.components.terms.direct"} <= TREES.keys()
    assert {target for target, _ in imported("zoo.components.baselines")} == {"zoo.components.base", "zoo.statistics"}


def test_the_lowest_modules_know_no_components() -> None:
    assert offences(modules(*BELOW), "zoo", allowed=BELOW) == []


def test_kinds_never_import_each_other() -> None:
    """A kind's module sees `base` and what lies below the components; a package of kinds is one unit; terms are where kinds meet."""
    found = []
    for module in modules("zoo.components"):
        unit = ".".join(module.split(".")[:3])
        if unit not in ("zoo.components", "zoo.components.terms"):
            found += offences([module], "zoo", allowed=(*BELOW, "zoo.components.base", unit))
    assert found == []


def test_terms_know_components_only() -> None:
    assert offences(modules("zoo.components.terms", "zoo.components"), "zoo", allowed=(*BELOW, "zoo.components")) == []


def test_the_grammar_knows_no_harness_and_no_numbers() -> None:
    assert offences(modules(*GRAMMAR), "zoo", allowed=(*BELOW, *GRAMMAR, "zoo.components")) == []


def test_numbers_know_no_harness_and_no_method() -> None:
    present = modules(*NUMBERS)
    assert len(present) >= 4
    assert offences(present, "zoo.harness", "zoo.method", "zoo.components", "zoo.views") == []


def test_the_harness_knows_no_tables() -> None:
    assert offences(modules("zoo.harness"), "zoo.tables", "zoo.figures", "zoo.cli") == []


def test_only_the_command_line_imports_the_command_line() -> None:
    assert offences([module for module in TREES if module not in ("zoo.cli", "zoo.__main__") and not module.startswith("zoo.cli.")], "zoo.cli") == []


def test_no_cycle_at_import_time() -> None:
    """Modules can be put in an order in which each imports earlier ones only (imports inside functions apart)."""
    edges = {module: {target for target in _at_the_top(module) if target != module and target in TREES} for module in TREES}
    done: set[str] = set()
    while edges:
        ready = [module for module, targets in edges.items() if targets <= done]
        assert ready, f"a cycle among {sorted(edges)}"
        done.update(ready)
        edges = {module: targets for module, targets in edges.items() if module not in done}


def _at_the_top(module: str) -> set[str]:
    top = [node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = {node.lineno for node in top}
    return {target for target, line in imported(module) if line in lines}


def literals(node: ast.AST) -> Iterator[ast.Constant]:
    """Text constants of a comparison, a match pattern or a table looked up by key."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for side in sides:
            items = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            yield from (item for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str))
    elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
        yield node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "endswith"):
        yield from (argument for argument in node.args if isinstance(argument, ast.Constant) and isinstance(argument.value, str))


def test_no_branch_on_a_method() -> None:
    """Methods differ by their entries alone: no id of the registry is compared with, anywhere in the package."""
    ids = set(load_registry()) - NAMES_OF_SCORERS
    assert "gkd" in ids
    found = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            found += [(module, literal.value) for literal in literals(node) if literal.value in ids]
    assert set(found) - NULL_TEST == set()


def called(node: ast.Call) -> str:
    """`torch.load` for a call of it, as far as it is written out."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id if isinstance(function, ast.Name) else "", *parts[::-1]])


BANNED = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.full_load", "yaml.unsafe_load", "yaml.full_load_all",
    "os.system", "numpy.load", "np.load", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip


def loader_of(node: ast.Call) -> str:
    """The class named by `Loader=` or by the second argument."""
    given = [keyword.value for keyword in node.keywords if keyword.arg == "Loader"] or node.args[1:2]
    return ast.unparse(given[0]) if given else ""


def safe_loaders(module: str) -> set[str]:
    """yaml.SafeLoader and the module's own classes made from it."""
    classes = [node for node in TREES[module].body if isinstance(node, ast.ClassDef)]
    return {"yaml.SafeLoader", *(node.name for node in classes if [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"])}


@pytest.mark.parametrize("module", TREES)
def test_nothing_that_runs_code_from_data(module: str) -> None:
    """No pickle in any guise, no evaluation of text, no loader of YAML that builds objects."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, node.lineno
        if isinstance(node, ast.Call):
            assert called(node) not in BANNED, f"{module}:{node.lineno} calls {called(node)}"
            if called(node) in ("yaml.load", "yaml.load_all"):
                assert loader_of(node) in safe_loaders(module), f"{module}:{node.lineno} loads YAML without a safe loader"
            assert not called(node).endswith(".to_pickle"), f"{module}:{node.lineno}"
            assert not any(keyword.arg == "shell" for keyword in node.keywords), f"{module}:{node.lineno}: a shell"
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords), f"{module}:{node.lineno}"
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            assert name not in ("UnsafeLoader", "FullLoader", "CLoader"), f"{module}:{node.lineno}"


def test_files_and_functions_are_of_reading_size() -> None:
    """About 300 lines a file and 50 a function; more is asking to be split."""
    long_files = [f"{path.relative_to(ROOT)}: {count}" for path in FILES if (count := len(path.read_text().splitlines())) > 320]
    functions = [
        f"{module}.{node.name}: {length}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert long_files == []
    assert functions == []


def test_every_public_thing_of_the_grammar_has_a_docstring() -> None:
    """Modules, and the public classes and functions at their top level: a kind's docstring is its formula and its source."""
    found = [module for module, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    for module in modules("zoo.components", *GRAMMAR, *BELOW):
        for node in TREES[module].body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                found.append(f"{module}.{node.name}")
    assert found == []
