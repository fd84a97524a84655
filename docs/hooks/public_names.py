"""What the reference needs to know that the source alone does not say.

`from a import b as b` makes a name public, also where a submodule is called so, and
`attacks._options.shares` writes the options that attacks share into signatures and
docstrings at import.
"""

import ast
import importlib
import inspect
import re

import griffe

_EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class PublicNames(griffe.Extension):
    """Marks re-exported names as public; takes attacks as they are once imported."""

    def __init__(self):
        """Nothing is exported yet."""
        self.exported = {}  # module: {name: where it comes from}

    def on_module_members(self, *, node, mod, **_):
        """Reads what a module imports under the name that it has."""
        found = {
            name.name: f"{statement.module}.{name.name}"
            for statement in getattr(node, "body", ())
            if isinstance(statement, ast.ImportFrom)
            for name in statement.names
            if name.asname == name.name
        }
        for name in found.keys() & mod.members.keys():
            mod.members[name].public = True
        self.exported[mod.path] = found

    def on_object(self, *, obj, **_):
        """Calls an example what griffe calls it, so that it is shown as code."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)

    def on_package(self, *, pkg, loader, **_):
        """Completes attacks, and puts functions where modules of their name are."""
        if pkg.path != "jaxrobust":
            return
        for module in [*pkg["attacks"].modules.values()]:
            for function in module.functions.values():
                if not function.is_alias:
                    _complete(function, pkg["attacks._options"])
        modules = loader.modules_collection
        for path, names in self.exported.items():
            hidden = {
                f"{path}.{name}" for name in names if _is_file(modules[path], name)
            }
            moved = {
                name: _followed(modules, origin)
                for name, origin in names.items()
                if origin.rpartition(".")[0] in hidden
            }
            for name, function in moved.items():
                modules[path].set_member(name, function)
                function.public = True


def _is_file(module, name):
    """Whether a module of one file is called so; a package has a page of its own."""
    found = module.members.get(name)
    return isinstance(found, griffe.Module) and not found.is_init_module


def _followed(modules, path):
    """Looks through imports: what stands at a path in the end."""
    found = modules[path]
    return _followed(modules, found.target_path) if found.is_alias else found


def _complete(function, options):
    """Adds what `shares` says of an attack to what its source says."""
    if not any(str(d.value).startswith("shares(") for d in function.decorators):
        return
    live = getattr(importlib.import_module(function.module.path), function.name)
    told = {
        name: attribute.annotation
        for shared in options.classes.values()
        for name, attribute in shared.attributes.items()
    }
    own = {parameter.name: parameter for parameter in function.parameters}
    function.parameters = griffe.Parameters(
        *(
            own.get(p.name)
            or griffe.Parameter(
                p.name,
                annotation=told[p.name],
                kind=griffe.ParameterKind.keyword_only,
                default=None if p.default is p.empty else repr(p.default),
            )
            for p in inspect.signature(live).parameters.values()
        )
    )
    function.decorators.clear()
    function.docstring.value = inspect.getdoc(live)
