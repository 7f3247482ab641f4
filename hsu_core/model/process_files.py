"""Where HSU's files about a running process are to be: `<id>.pid`, `<id>.port` and `<id>.json`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """For whom the files are; it names the folder where `base_directory` does not."""

    SYSTEM = "system"
    USER = "user"
    SESSION = "session"
    DEVELOPMENT = "development"


SCENARIOS = {
    "system": Scope.SYSTEM,
    "daemon": Scope.SYSTEM,
    "service": Scope.SYSTEM,
    "user": Scope.USER,
    "personal": Scope.USER,
    "session": Scope.SESSION,
    "desktop": Scope.SESSION,
    "development": Scope.DEVELOPMENT,
    "dev": Scope.DEVELOPMENT,
    "test": Scope.DEVELOPMENT,
}
"""HSU's words for them."""


@dataclass(frozen=True, slots=True)
class ProcessFileSpec:
    """Files in `base_directory`, else in the folder of the scope; below it in one named `app_name`, if it is given."""

    scope: Scope = Scope.USER
    base_directory: str = ""
    app_name: str = ""
