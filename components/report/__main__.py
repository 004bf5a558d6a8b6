"""The command of report: `python -m components.report --help`."""

from rich.console import Console

from components.common.command_line import load_recipe, run_command, step_parser
from components.report.step import report
from components.report.table import pushed_lines, summary_table
from matta_core.artifacts.kinds.report import read_summary


def main() -> None:
    parser = step_parser("report", "Gather the figures of a run into summary.json, report.html and summary.md.", None)
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument("--checkpoint", required=True, help="a MattaCheckpoint, made by train")
    parser.add_argument("--students", required=True, help="a StudentFamily, made by extract_students")
    parser.add_argument("--evaluation", required=True, help="an EvaluationReport, made by evaluate")
    parser.add_argument("--decision", required=True, help="a GateDecision, made by gate")
    parser.add_argument("--push-record", required=True, help="a PushRecord, made by push")
    parser.add_argument("--teacher-checkpoint", help="the Teacher's MattaCheckpoint, if the run trained one")
    parser.add_argument("--scores", help="TeacherScores, made by score_teacher")
    args = parser.parse_args()
    artifact = report(
        args.dataset,
        args.checkpoint,
        args.students,
        args.evaluation,
        args.decision,
        args.push_record,
        teacher_checkpoint=args.teacher_checkpoint,
        scores=args.scores,
        name=load_recipe(args.recipe, args.set).name,
        output=args.output,
    )
    summary = read_summary(artifact.path)
    console = Console()
    console.print(summary_table(summary))
    for line in [*pushed_lines(summary), f"report: {artifact.path.resolve() / 'report.html'}"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    run_command(main)
