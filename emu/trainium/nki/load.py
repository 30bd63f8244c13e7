"""Imports a kernel's file as it stands in its author's repository.

The file sees our stub modules (`stubs`) under the vendor's names, the other files of its own
repository, and a `range` that counts. None of these stay behind in the user's process: they are
there while the file is imported, and again while one of its kernels runs, for kernels import too.
"""

import ast
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from emu.errors import EmulationError
from emu.trainium.nki import stubs
from emu.trainium.nki.counting import Range
from emu.trainium.nki.kernel import Kernel

USUAL = """\
import math
import numpy as np
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import neuronxcc.nki.typing as nt
"""
"""What kernels that are given as text without their imports rely on."""


IMPORTS_OLDER = re.compile(r"^\s*(from|import)\s+neuronxcc\b", re.MULTILINE)


class Loaded:
    """The files that a kernel is made of, imported.

    Attributes:
      roots: folders in which its modules are looked for.
      modules: those that have been imported.
    """

    def __init__(self, roots: Sequence[Path]):
        self.roots = tuple(roots)
        self.modules: dict[str, types.ModuleType] = {}

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """With the stubs and these modules where `import` finds them."""
        with stubs.installed():
            before = {name: sys.modules.get(name) for name in self.modules}
            earlier = set(sys.modules)
            finder = Finder(self)
            sys.modules.update(self.modules)
            sys.meta_path.insert(0, finder)
            try:
                yield
            finally:
                sys.meta_path.remove(finder)
                for name in set(sys.modules) - earlier:
                    if isinstance(
                        getattr(sys.modules[name], "__loader__", None), Loader
                    ):
                        self.modules[name] = sys.modules.pop(name)
                for name, module in before.items():
                    if module is None:
                        sys.modules.pop(name, None)
                    else:
                        sys.modules[name] = module


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of a kernel's own repository."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in sys.stdlib_module_names:
            return None
        for root in self.loaded.roots:
            place = root.joinpath(*fullname.split("."))
            package, module = place / "__init__.py", place.with_suffix(".py")
            if package.is_file() or (place.is_dir() and any(place.glob("*.py"))):
                spec = importlib.util.spec_from_file_location(
                    fullname,
                    package,
                    loader=Loader(fullname, str(package), self.loaded),
                    submodule_search_locations=[str(place)],
                )
                return spec
            if module.is_file():
                return importlib.util.spec_from_file_location(
                    fullname, module, loader=Loader(fullname, str(module), self.loaded)
                )
        return None


class Package(types.ModuleType):
    """A package whose `__init__.py` runs once a name is asked for that is no submodule.

    Libraries import all that they have there, most of which a kernel does not need.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for folder in self.__path__:
            if any(Path(folder, each).exists() for each in (name, f"{name}.py")):
                return importlib.import_module(f"{self.__name__}.{name}")
        loader = self.__dict__.get("__loader__")
        if isinstance(loader, Loader) and not loader.done:
            loader.run(self)
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module of a kernel's repository: its `range` counts, and nothing is written."""

    def __init__(self, fullname: str, path: str, loaded: Loaded):
        super().__init__(fullname, path)
        self.loaded = loaded
        self.done = False

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        kind = types.ModuleType if spec.submodule_search_locations is None else Package
        return kind(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        # A package that gives one of its modules' names to something else, as does
        # `from .cumsum import cumsum`, means that whoever asks it for the name.
        if not isinstance(module, Package) or self.renames(module.__path__):
            self.run(module)

    def renames(self, folders: Sequence[str]) -> bool:
        """Whether the package's own file imports a name that a module in it has, too."""
        path = Path(self.path)
        if not path.is_file():
            return False
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                named.update(each.asname or each.name for each in node.names)
        return any(
            Path(folder, name).is_dir() or Path(folder, f"{name}.py").is_file()
            for folder in folders
            for name in named
        )

    def run(self, module: types.ModuleType) -> None:
        """Runs the module's file."""
        self.done = True
        module.__dict__["range"] = Range
        path = Path(self.path)
        if path.is_file():
            exec(self.source_to_code(path.read_bytes(), self.path), module.__dict__)


def load(file: str | Path) -> types.ModuleType:
    """The module of a kernel's file.

    A file in a package, with `__init__.py` beside it, is imported under its full name, so that
    relative imports work; other files find those beside them.

    Example: `load("nkilib/core/cumsum/cumsum.py").cumsum` is a kernel, ready for `record`.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise EmulationError(f"nki: there is no file {file}")
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        names.insert(0, root.name)
        root = root.parent
    loaded = Loaded((root,))
    name = ".".join(names)
    if name in sys.modules:
        # A kernel's file may well be called like something that is imported already.
        name = loaded_name(name)
    with loaded.present():
        try:
            module = named(loaded, name, path)
        except (SyntaxError, ImportError, AttributeError) as error:
            raise EmulationError(
                f"nki: {path.name} cannot be imported: {error}", where(error)
            ) from None
    return module


def loaded_name(name: str) -> str:
    """A name for a module whose own is taken."""
    *parents, last = name.split(".")
    return ".".join([*parents, f"{last}_kernels"])


def named(loaded: Loaded, name: str, path: Path) -> types.ModuleType:
    """Imports a file under a name, its packages first."""
    parent, _, last = name.rpartition(".")
    if parent:
        importlib.import_module(parent)
    if name in sys.modules:
        # Its package has imported it.
        return sys.modules[name]
    loader = Loader(name, str(path), loaded)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


def load_text(
    text: str, *, file: str = "kernel.py", line: int = 1, usual: str = USUAL
) -> types.ModuleType:
    """The module of a kernel that is given as text.

    Args:
      text: a file's, or a part of one, such as a step that a tuner wrote.
      file, line: where it stands, for messages and reports.
      usual: what is run before it: imports that the text leaves out.
    """
    loaded = Loaded(())
    module = types.ModuleType(Path(file).stem)
    module.__dict__.update(
        __file__=file, __loader__=Loader(module.__name__, file, loaded)
    )
    module.__dict__["range"] = Range
    with loaded.present():
        try:
            exec(compile(usual, file, "exec"), module.__dict__)
            exec(compile("\n" * (line - 1) + text, file, "exec"), module.__dict__)
        except (SyntaxError, ImportError, AttributeError) as error:
            raise EmulationError(
                f"nki: {file} cannot be imported: {error}", where(error)
            ) from None
    return module


def where(error: BaseException) -> str:
    """The line at which an import failed."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    traceback = error.__traceback__
    found = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if isinstance(traceback.tb_frame.f_globals.get("__loader__"), Loader):
            found = f"{code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def kernel(module: types.ModuleType, name: str) -> Callable[..., Any]:
    """A kernel of a module, by its name."""
    found = getattr(module, name, None)
    if not callable(found):
        kernels = [
            key for key, value in vars(module).items() if isinstance(value, Kernel)
        ]
        raise EmulationError(
            f"nki: {Path(str(module.__file__)).name} has no kernel {name!r}; "
            f"it has {', '.join(kernels) or 'none'}"
        )
    return found


def api(module: types.ModuleType) -> str:
    """Which NKI a module was written for, `neuronxcc.nki` or `nki`, by what it imports."""
    modules = [
        value for value in vars(module).values() if isinstance(value, types.ModuleType)
    ]
    if any(each.__name__.startswith("neuronxcc") for each in modules):
        return stubs.OLD
    # Kernels import in their own bodies too, which nobody has run yet.
    path = Path(str(module.__file__))
    is_loaded = isinstance(module.__dict__.get("__loader__"), Loader)
    if is_loaded and path.is_file() and IMPORTS_OLDER.search(path.read_text()):
        return stubs.OLD
    return stubs.NEW


@contextlib.contextmanager
def present(function: Callable[..., Any]) -> Iterator[None]:
    """What a kernel may import while it runs: the stubs, and its own repository."""
    loader = getattr(function, "__globals__", {}).get("__loader__")
    if isinstance(loader, Loader):
        with loader.loaded.present():
            yield
    else:
        with stubs.installed():
            yield
