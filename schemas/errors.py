"""One exception tree: whatever prefine raises on purpose is a `PrefineError`.

`exit_code` is what the CLI exits with: 2 when the user's words (recipe, arguments) are wrong and
trying again cannot help, 1 when the work failed and trying again may.
"""

from __future__ import annotations


class PrefineError(Exception):
    """Base of every error prefine raises on purpose; its text names what, where and the fix."""

    exit_code = 1


class UsageError(PrefineError):
    """Wrong command-line usage: unknown name, impossible combination."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is wrong; the text holds file, line, field and the nearest valid name."""


class DataError(PrefineError):
    """Input data cannot be read at all, or more rows were rejected than the recipe allows."""


class WorkspaceError(PrefineError):
    """The workspace is missing, damaged, or made by another configuration."""


class EngineError(PrefineError):
    """An LLM engine cannot be started or nothing answers."""


class AnnotationServerError(PrefineError):
    """The annotation server cannot be reached, refuses the token, or answers what it should not."""


class BudgetExceeded(PrefineError):
    """A stated budget (calls, tokens, seconds) is spent; the run can be resumed with a larger one."""


class MissingExtra(PrefineError):
    """A feature needs an optional dependency that is not installed; the text names the extra."""
