"""Push blessed students to where they are served: whole, tried out, each by one atomic move of a pointer."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from components.common.disk import disk_errors_explained, make_directory
from components.common.interpreter import python
from components.common.served.moves import is_version
from components.common.served.pointer import Pointer, describe, read_pointer, withdrawal
from components.common.served.versions import content_digest, version_name
from components.common.step_runner import run_step, say
from components.common.storage.open_storage import open_storage
from components.common.storage.storage import Storage
from components.push import card, registry, serving
from components.push.release import push_version
from components.push.retention import retire
from components.push.validation import Queries, validate
from matta_core.artifacts import Artifact, open_artifact, write_json_atomically
from matta_core.artifacts.kinds.decision import DECISION, contradiction, read_decision
from matta_core.artifacts.kinds.evaluation import RESULTS, read_results
from matta_core.artifacts.kinds.family import read_family
from matta_core.artifacts.kinds.push_record import PUSH, Pushed, PushRecord
from matta_core.errors import UserError
from matta_core.recipe import PushConfig


def push(
    config: PushConfig,
    decision: str | Path,
    students: str | Path,
    evaluation: str | Path,
    *,
    output: str | Path,
) -> Artifact:
    """Push every blessed student to `config.target`; `components.common.served.versions` says what lies there.

    Each student on its own, in ascending order of size: its files into an immutable version, checked by checksum;
    that version loaded and queried in a fresh process; the pointer moved; versions that need not be kept deleted. A
    push that failed or was killed can be run again: what is there already is checked and kept. It runs every time,
    for no digest of an artifact tells what became of the target since; with the same outcome the record is the same.

    Files of a PushRecord: `push.json`, a `PushRecord`. In it `before` and `after` are the
    versions that the pointer named before and after the move that put this version in its place, whenever that was;
    `path` is the version's path or URL; `manifest_path` and `model_card` are relative to the record: a KServe
    InferenceService `serving/<size>.yaml` and `cards/<size>.md`; `registered` is the version's URL in the model
    registry, or `registry_error` says why it is in none, which is no failure of the push. A student that was not
    blessed, or whose version a person rolled back, is not pushed: `before` and `after` are what is served, the others
    but the first two are null.

    Raises: UserError where decision, students and evaluation do not belong together (nothing is pushed), or a student
    could not be pushed: something else is served than what it was compared with, the target cannot be written, a
    version there is damaged, a model does not load or answers otherwise than recorded, or another push moved the
    pointer meanwhile. A student that fails does not keep the
    others from being pushed: all are tried, then the error lists the failures; no record is made, and one that an
    earlier push left here stays as it was.
    """
    verdict = open_artifact(decision, "GateDecision")
    family = open_artifact(students, "StudentFamily")
    report = open_artifact(evaluation, "EvaluationReport")
    _check_lineage(verdict, {"students": family, "evaluation": report})
    target = str(Path(config.target).resolve()) if "://" not in config.target else config.target

    def work(path: Path) -> dict[str, Any]:
        judged = _Judged(verdict, family, report)
        config.serving.check_sizes(size for size in judged.ascending if judged.verdicts[size]["blessed"])
        registry.check_registry(config)
        with disk_errors_explained(Path(target), "push.target"):
            if "://" not in target:
                make_directory(Path(target), "push.target")
            storage = open_storage(config.target)
        record: dict[str, Pushed] = {}
        failures = {}
        with Queries() as queries:
            for size in judged.ascending:
                if not judged.verdicts[size]["blessed"]:
                    reasons = dict.fromkeys(
                        check["why"] for check in judged.verdicts[size]["checks"] if not check["passed"]
                    )
                    record[size] = _not_pushed(storage, size, f"not blessed: {'; '.join(reasons)}")
                    continue
                try:
                    with disk_errors_explained(Path(target), "push.target"):
                        pointer = _push_one(config, storage, size, judged, queries)
                except _WithdrawnError as error:
                    record[size] = _not_pushed(storage, size, str(error))
                    continue
                except UserError as error:
                    failures[size] = error
                    say("push", f"{size}: NOT pushed: {error}")
                    continue
                record[size] = _hand_over(config, storage, pointer, judged, path)
                _tidy_up(config, storage, size)
        if failures:
            told = "; ".join(f"{size}: {error}" for size, error in failures.items())
            pushed = [size for size in record if record[size]["pushed"]]
            others = f" (pushed all the same: {', '.join(pushed)})" if pushed else ""
            raise UserError(f"{told}{others}") from next(iter(failures.values()))
        content: PushRecord = {"target": target, "students": record}
        write_json_atomically(path / PUSH, content)
        return {"pushed": [size for size in record if record[size]["pushed"]]}

    inputs = {"decision": verdict, "students": family, "evaluation": report}
    return run_step("push", "PushRecord", output, config, inputs, work, reuse=False)


class _WithdrawnError(UserError):
    """A person took this version out of service. Not to push it is then what was asked for, and no failure."""


class _Judged:
    """The students as the gate judged them, by what the three artifacts say of them."""

    def __init__(self, verdict: Artifact, family: Artifact, report: Artifact) -> None:
        self.folder = family.path
        self.family = read_family(family.path)
        self.members = self.family["students"]
        self.ascending = sorted(self.members, key=lambda size: self.members[size]["parameters"])
        self.decision = read_decision(verdict.path)
        if problem := contradiction(self.decision):
            raise UserError(f"{verdict.path / DECISION} contradicts itself: {problem}; run the gate again")
        self.verdicts = self.decision["students"]
        if self.verdicts.keys() != self.members.keys():
            raise UserError(
                f"{verdict.path} decides on {', '.join(self.verdicts)}, {family.path} holds {', '.join(self.members)}: "
                f"run the gate again"
            )
        self.results = read_results(report.path)
        self.decision_digest = verdict.digest
        self.origin = {"students": family.digest, "decision": verdict.digest, "evaluation": report.digest}
        # The card's lineage: where the students come from, as far as the artifacts know.
        teacher = self.results["models"].get("teacher", {}).get("digest")
        self.lineage = {**family.inputs, **self.origin, **({"teacher": teacher} if teacher else {})}

    def judged_against(self, size: str) -> str | None:
        """The pushed version that the student was compared with; None where nothing of the size was served."""
        baseline = self.verdicts[size]["baseline"]
        if baseline is None:
            return None
        version = self.results["models"].get(baseline, {}).get("version")
        if not isinstance(version, str) or not is_version(version):
            raise UserError(f"{RESULTS} tells no version of {baseline}, which {size} was compared with: evaluate again")
        return version


def _check_lineage(verdict: Artifact, inputs: Mapping[str, Artifact]) -> None:
    for name, artifact in inputs.items():
        if verdict.inputs.get(name) != artifact.digest:
            raise UserError(
                f"{verdict.path} was made for the {artifact.kind} with digest {verdict.inputs.get(name)}, but "
                f"{artifact.path} has {artifact.digest}: nothing was pushed. Run the gate on these {name}"
            )


def _push_one(config: PushConfig, storage: Storage, size: str, judged: _Judged, queries: Queries) -> Pointer:
    member = judged.members[size]
    if "reference" not in member:
        raise UserError(f"{judged.folder} holds no recorded logits of {size}: run extract_students again")
    model = judged.folder / member["path"]
    pointer = push_version(
        storage,
        size,
        model,
        judged.folder / member["reference"],
        may_replace=partial(_may_replace, storage, size, content_digest(model)[:16], judged.judged_against(size)),
        try_out=partial(validate, queries, config, storage, size),
        inputs=judged.origin,
        metadata={"size": size},
        decision=judged.decision_digest,
    )
    say("push", f"{size}: {pointer.version} is current, and whole (before: {pointer.previous or 'none'})")
    return pointer


def _may_replace(storage: Storage, size: str, version: str, judged_against: str | None, served: Pointer | None) -> None:
    """Refuse a version that a person rolled back. Refuse a push over anything but the version that the student was
    compared with."""
    if move := withdrawal(served, version):
        raise _WithdrawnError(
            f"withdrawn: {version} was rolled back at {move.moved_at} by {move.moved_by}. To serve it all the same: "
            f"{python()} -m components.push --rollback {size} --to {version} --target {storage.url}"
        )
    if (served and served.version) != judged_against:
        raise UserError(
            f"it was judged against {judged_against or 'nothing served'}, but {describe(served)} is served now: "
            f"run the pipeline again, which evaluates and judges it anew"
        )


def _hand_over(config: PushConfig, storage: Storage, pointer: Pointer, judged: _Judged, path: Path) -> Pushed:
    """Write the manifest and card of a pushed student, and register it. Returns its part of push.json."""
    size, version = pointer.size, pointer.version
    name = config.serving.service_name(size)
    location = storage.location(version_name(size, version))
    member = judged.members[size]
    memory = serving.memory(config.serving, member, judged.results, size)
    arguments = serving.arguments(config.serving, name, judged.folder / member["path"])
    texts = {
        f"serving/{size}.yaml": serving.manifest(
            config.serving, storage, size, version, pointer.digest, memory=memory, arguments=arguments
        ),
        f"cards/{size}.md": card.model_card(
            card.CardFacts(
                name=name,
                size=size,
                version=version,
                digest=pointer.digest,
                location=location,
                member=member,
                family=judged.family,
                results=judged.results,
                verdict=judged.verdicts[size],
                confidence=judged.decision["confidence"],
                lineage=judged.lineage,
            )
        ),
    }
    for file, text in texts.items():
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).write_text(text, encoding="utf-8")
    manifest_path, model_card = texts
    registered, problem = None, None
    if config.registry is not None:
        properties = {
            "content_digest": pointer.digest,
            "parameters": judged.members[size]["parameters"],
        } | judged.origin
        try:
            registered = registry.register(config, name, version, location, properties)
            say("push", f"{size}: registered as {registered}")
        except UserError as error:
            problem = str(error)
            say("push", f"{size}: pushed, but NOT registered: {error}. The next push tries again")
    return {
        "pushed": True,
        "why": "blessed",
        "version": version,
        "path": location,
        "digest": pointer.digest,
        "before": pointer.previous,
        "after": version,
        "manifest_path": manifest_path,
        "model_card": model_card,
        "registered": registered,
        "registry_error": problem,
    }


def _not_pushed(storage: Storage, size: str, why: str) -> Pushed:
    say("push", f"{size}: not pushed, {why}")
    served = read_pointer(storage, size)
    version = served and served.version
    return {
        "pushed": False,
        "why": why,
        "version": None,
        "path": None,
        "digest": None,
        "before": version,
        "after": version,
        "manifest_path": None,
        "model_card": None,
        "registered": None,
        "registry_error": None,
    }


def _tidy_up(config: PushConfig, storage: Storage, size: str) -> None:
    """Delete old versions. If that fails, the next push deletes them; this push has not failed."""
    try:
        with disk_errors_explained(Path(storage.url), "push.target"):
            deleted = retire(storage, size, config.keep_versions)
    except UserError as error:
        say("push", f"{size}: old versions are left for the next push to delete: {error}")
        return
    if deleted:
        say("push", f"{size}: deleted {', '.join(deleted)} (push.keep_versions = {config.keep_versions})")
