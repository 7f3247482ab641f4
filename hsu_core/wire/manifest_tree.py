"""From a file as written to one that stands alone: variables, `extends`, and files to inline are resolved.

Works on plain data, before the models look at it; the result with its lines is again a `Document`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hsu_core.wire.faults import FaultList
from hsu_core.wire.fields import nearest, shown
from hsu_core.wire.interpolate import Interpolator, TooLong
from hsu_core.wire.tree import NODE_LIMIT, SIZE_LIMIT_BYTES, Document, Path, WrittenFloat, WrittenInt

Lines = dict[Path, int]
ReadFile = Callable[[str], bytes]


def resolve_variables(
    found: FaultList, environment: Mapping[str, str] | None, extra: Mapping[str, Any]
) -> Interpolator:
    """Expand the references of the document in place of it and return the expander for further texts."""
    data = found.document.data
    own = data.get("vars")
    if own is not None and not isinstance(own, dict):
        found.fault(("vars",), f"needs a map of variables, found {shown(own)}", "write `name: value` lines below it")
        own = {}
    expander = Interpolator({**(own or {}), **extra}, environment, found)
    try:
        data = {key: value if key == "vars" else expander.tree(value, (key,)) for key, value in data.items()}
    except TooLong:
        found.fault(
            ("vars",), f"the variables expand to more than {SIZE_LIMIT_BYTES} bytes, or are too many", "shorten them"
        )
    found.document = Document(data, found.document.file, found.document.lines)
    return expander


def resolve_extends(found: FaultList) -> None:
    """Lay every worker over the templates it names; `templates`, `vars` and `extends` are gone afterwards."""
    document = found.document
    data = {key: value for key, value in document.data.items() if key not in ("vars", "templates")}
    templates = document.data.get("templates")
    if templates is not None and not isinstance(templates, dict):
        found.fault(
            ("templates",), f"needs a map of templates, found {shown(templates)}", "write `name:` lines below it"
        )
        templates = {}
    workers = data.get("workers")
    if isinstance(workers, list) and any(isinstance(worker, dict) and "extends" in worker for worker in workers):
        resolver = _Extender(found, templates or {})
        data["workers"] = resolver.workers(workers)
        found.document = Document(data, document.file, resolver.lines)
    else:
        found.document = Document(data, document.file, document.lines)


class _Extender:
    """Merges templates into workers, with the lines of what came from where."""

    def __init__(self, found: FaultList, templates: Mapping[str, Any]) -> None:
        self.lines: Lines = dict(found.document.lines)
        self._found = found
        self._templates = templates
        self._parts: dict[tuple[str, str | int], Lines] = {}
        for path, line in found.document.lines.items():
            if len(path) >= 2 and path[0] in ("templates", "workers"):
                self._parts.setdefault((str(path[0]), path[1]), {})[path[2:]] = line
        self._done: dict[str, tuple[dict[str, Any], Lines]] = {}
        self._open: list[str] = []
        self._left = NODE_LIMIT

    def workers(self, workers: list[Any]) -> list[Any]:
        merged: list[Any] = []
        for index, worker in enumerate(workers):
            if not isinstance(worker, dict) or "extends" not in worker:
                merged.append(worker)
                continue
            body, lines = self._extended(worker, ("workers", index))
            merged.append(body)
            self.lines.update({("workers", index, *path): line for path, line in lines.items()})
        return merged

    def _extended(self, body: dict[str, Any], path: Path) -> tuple[dict[str, Any], Lines]:
        own_lines = self._parts.get((str(path[0]), path[1]), {})
        names = body.get("extends")
        names = [names] if isinstance(names, str) else [] if names is None else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._found.fault((*path, "extends"), "needs the name of a template, or a list of names")
            names = []
        result: dict[str, Any] = {}
        lines: Lines = {}
        for name in names:
            base, base_lines = self._template(name, (*path, "extends"))
            result, lines = _laid_over(result, base), {**lines, **base_lines}
        own = {key: value for key, value in body.items() if key != "extends"}
        self._left -= len(lines)
        if self._left < 0 and names:
            self._found.fault((*path, "extends"), f"templates expand to more than {NODE_LIMIT} values", "use fewer")
            return own, own_lines
        return _laid_over(result, own), {**lines, **own_lines}

    def _template(self, name: str, path: Path) -> tuple[dict[str, Any], Lines]:
        if name in self._done:
            return self._done[name]
        body = self._templates.get(name)
        if name in self._open:
            chain = " -> ".join([*self._open[self._open.index(name) :], name])
            self._found.fault(path, f"templates extend each other: {chain}", "break the circle")
            return {}, {}
        if not isinstance(body, dict):
            near = nearest(name, list(self._templates))
            text = f"template {name[:60]!r} is {shown(body)}" if body is not None else f"no template {name[:60]!r}"
            self._found.fault(path, text, f"did you mean {near}?" if near else "add it below `templates`, as a map")
            return {}, {}
        if len(self._open) >= 32:  # as deep as a document may be
            self._found.fault(path, "templates extend each other more than 32 deep", "shorten the chain")
            return {}, {}
        self._open.append(name)
        self._done[name] = self._extended(body, ("templates", name))
        self._open.pop()
        return self._done[name]


def _laid_over(base: Any, over: Any) -> Any:
    """Return `over` on top of `base`: maps are merged key by key, everything else is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _laid_over(base.get(key), value) for key, value in over.items()}}


def inline_files(found: FaultList, expander: Interpolator, read_file: ReadFile | None) -> None:
    """Replace `template: path` by `content: text`, variables expanded, so that the document stands alone."""
    workers = found.document.data.get("workers")
    for index, worker in enumerate(workers if isinstance(workers, list) else []):
        files = worker.get("files") if isinstance(worker, dict) else None
        if not isinstance(files, dict):
            continue
        inlined = {
            name: _inlined(body, ("workers", index, "files", name), found, expander, read_file)
            for name, body in files.items()
        }
        workers[index] = {**worker, "files": inlined}
    routes = found.document.data.get("routes")
    for name, route in routes.items() if isinstance(routes, dict) else ():
        if isinstance(route, dict) and isinstance(route.get("template"), dict):
            at: Path = ("routes", name, "template")
            routes[name] = {**route, "template": _inlined(route["template"], at, found, expander, read_file)}


def _inlined(body: Any, path: Path, found: FaultList, expander: Interpolator, read_file: ReadFile | None) -> Any:
    template = body.get("template") if isinstance(body, dict) else None
    if not isinstance(template, str):
        return body
    rest = {key: value for key, value in body.items() if key != "template"}
    if "content" in rest:
        found.fault(path, "both `template` and `content` are given", "keep one")
        return rest
    if read_file is None:
        found.fault(
            (*path, "template"),
            f"file {template[:200]} cannot be read here: it is on the machine of the one who deploys",
            "deploy with the command line, which sends its content, or write `content:`",
        )
        return {**rest, "content": ""}
    try:
        text = read_file(template).decode("utf-8")
    except UnicodeDecodeError as error:
        found.fault((*path, "template"), f"{template[:200]} is not UTF-8 text: byte {error.start}", "save it as UTF-8")
        return {**rest, "content": ""}
    except OSError as error:
        why = error.strerror or str(error)
        found.fault((*path, "template"), f"cannot read {template[:200]}: {why}", "paths start at the manifest")
        return {**rest, "content": ""}
    if len(text) > SIZE_LIMIT_BYTES or "\x00" in text:
        found.fault((*path, "template"), f"{template[:200]} is too large or holds NUL", "shorten it")
        return {**rest, "content": ""}
    try:
        return {**rest, "content": expander.file(text, template)}
    except TooLong:
        found.fault((*path, "template"), f"the files expand to more than {SIZE_LIMIT_BYTES} bytes", "shorten them")
        return {**rest, "content": ""}


def as_written(value: Any) -> Any:
    """Return a copy that JSON carries without loss: 1.10 and 0x10 become texts (every field takes both)."""
    if isinstance(value, dict):
        return {key: as_written(child) for key, child in value.items()}
    if isinstance(value, list):
        return [as_written(child) for child in value]
    if isinstance(value, WrittenInt | WrittenFloat):
        plain: int | float = int(value) if isinstance(value, WrittenInt) else float(value)
        return plain if repr(plain) == value.text else value.text
    return value
