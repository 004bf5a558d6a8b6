"""summary.md: the report's tables for Kubeflow's page, a pull request or a terminal."""

import re
from collections.abc import Sequence

from components.common.markdown import code, escape
from components.report.details import Column, ReportGrid
from components.report.formats import duration
from components.report.sections import SectionOfReport, headline, held_lines
from matta_core.artifacts.kinds.report import Summary


def markdown(summary: Summary, content: Sequence[SectionOfReport]) -> str:
    """The headline, why students were held, and every table. Only the page has the figures."""
    lines = [f"# MatTA: {escape(summary['name'])}", "", f"**{escape(headline(summary))}.**", ""]
    lines += [f"- {escape(line)}" for line in held_lines(summary)]
    lines += ["", f"All steps took {duration(summary['total_seconds'])}.", ""]
    for section in content:
        parts = [part for part in section.parts if part.text or part.grids]
        if not parts:
            continue
        lines += [f"## {section.heading}", ""]
        for part in parts:
            lines += [f"### {escape(part.heading)}", ""] if part.heading else []
            for text in part.text:
                lines += [escape(text), ""]
            for grid in part.grids:
                lines += [escape(grid.caption), "", *table_lines(grid), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def table_lines(grid: ReportGrid) -> list[str]:
    """A table in GitHub's Markdown, with numbers set right."""
    rule = ["---:" if column.kind == "number" else "---" for column in grid.columns]
    rows = [[_cell(cell, column) for cell, column in zip(row, grid.columns, strict=True)] for row in grid.rows]
    return [f"| {' | '.join(cells)} |" for cells in ([escape(column.heading) for column in grid.columns], rule, *rows)]


def _cell(cell: str, column: Column) -> str:
    if column.kind == "code":
        return code(cell)
    return f"**{cell}**" if column.kind == "verdict" and cell in ("no", "worse") else escape(cell)
