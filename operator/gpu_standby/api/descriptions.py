"""What the models' docstrings say about each field, for `kubectl explain`.

Read from the source when the CRDs are generated, not when the models are imported: the operator need not pay for it.
"""

import ast
import inspect
from itertools import pairwise
from textwrap import dedent

from pydantic import BaseModel


def of_fields(model: type[BaseModel]) -> dict[str, dict[str, str]]:
    """By class and by the field's name on the wire: for every class that is a subclass of the model."""
    return {cls.__name__: _of(cls) for cls in _family(model)}


def _family(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [model, *(found for child in model.__subclasses__() for found in _family(child))]


def _of(model: type[BaseModel]) -> dict[str, str]:
    told: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if isinstance(cls, type) and issubclass(cls, BaseModel) and cls is not BaseModel:
            told |= _docstrings(cls)
    return {field.alias or name: told[name] for name, field in model.model_fields.items() if name in told}


def _docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """A string that stands alone after a field is that field's."""
    (definition,) = ast.parse(dedent(inspect.getsource(cls))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    told: dict[str, str] = {}
    for field, after in pairwise(body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                told[name] = " ".join(text.split())
    return told
