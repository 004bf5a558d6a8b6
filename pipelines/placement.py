"""A cluster profile applied to the DAG's tasks, by kfp's own setters and those of kfp-kubernetes."""

import dataclasses

from kfp import dsl, kubernetes
from kubernetes.utils.quantity import parse_quantity

from components.common.launching.config import RUN_ID_VARIABLE, LaunchConfig
from pipelines.cluster import ClusterProfile, StepPlacement
from pipelines.steps import STEPS


def place(task: dsl.PipelineTask, step: str, cluster: ClusterProfile) -> None:
    """Give a task its image, resources, place, time and retries."""
    task.set_container_image(getattr(cluster.images, STEPS[step].image))
    placement = pod_of(step, cluster)
    _set_resources(task, placement, cluster.platform)
    if placement.retries:
        task.set_retry(
            placement.retries,
            backoff_duration=f"{placement.retry_backoff_seconds}s",
            backoff_factor=placement.retry_backoff_factor,
            backoff_max_duration=f"{placement.retry_window_seconds}s",
        )
    if cluster.platform == "kubeflow":
        _set_pod(task, placement, cluster)
    if cluster.placement(step).nodes > 1:
        # The TrainJob carries the run's id. As a parameter, it would keep the step from being cached.
        kubernetes.use_field_path_as_env(task, RUN_ID_VARIABLE, "metadata.labels['pipeline/runid']")


def pod_of(step: str, cluster: ClusterProfile) -> StepPlacement:
    """What the step's own pod is given. Where a TrainJob does the work, the pod only waits: it gets the profile's
    `defaults` without accelerators, and the time limit of the work."""
    placement = cluster.placement(step)
    if placement.nodes == 1:
        return placement
    lasting = ("timeout_seconds", "retries", "retry_backoff_seconds", "retry_backoff_factor")
    return dataclasses.replace(
        cluster.defaults,
        accelerator=None,
        accelerators=0,
        shared_memory=None,
        **{name: getattr(placement, name) for name in lasting},
    )


def launch_config(step: str, cluster: ClusterProfile | None) -> str:
    """The step's LaunchConfig as JSON; '' where one process in the step's own pod does all the work."""
    if cluster is None:
        return ""
    placement = cluster.placement(step)
    if placement.nodes == 1 and placement.processes == 1:
        return ""
    # Vertex AI has no timeout per step.
    timeout = None if cluster.platform == "vertex" else _ranks_timeout_seconds(placement)
    one_pod = LaunchConfig(processes_per_node=placement.processes, timeout_seconds=timeout)
    if placement.nodes == 1:
        return one_pod.to_json()
    return dataclasses.replace(
        one_pod,
        nodes=placement.nodes,
        image=cluster.images.trainer,
        runtime=placement.runtime,
        cpu=placement.cpu,
        cpu_limit=placement.cpu_limit or "",
        memory=placement.memory,
        memory_limit=placement.memory_limit or "",
        accelerator=placement.accelerator or "",
        accelerators=placement.accelerators,
        shared_memory=placement.shared_memory or "",
        claims=cluster.volumes,
        secrets=cluster.secrets,
        service_account=cluster.service_account or "",
        security_context=cluster.security_context,
        node_selector=placement.node_selector,
        tolerations=tuple(toleration.to_kubernetes() for toleration in placement.tolerations),
        labels=placement.labels,
        annotations=placement.annotations,
    ).to_json()


def _ranks_timeout_seconds(placement: StepPlacement) -> int:
    """The ranks' timeout: a minute less than the pod's, which began earlier, so that the step can still report."""
    return max(placement.timeout_seconds - 60, placement.timeout_seconds // 2)


def _set_resources(task: dsl.PipelineTask, placement: StepPlacement, platform: str) -> None:
    if platform == "kubeflow":  # on Vertex AI the limits choose the machine
        task.set_cpu_request(placement.cpu).set_memory_request(placement.memory)
    cpu_limit = placement.cpu_limit or placement.cpu
    task.set_cpu_limit(cpu_limit).set_memory_limit(placement.memory_limit or placement.memory)
    if placement.accelerator is not None:
        task.set_accelerator_type(placement.accelerator).set_accelerator_limit(placement.accelerators)
    # torch counts the node's cores, but the pod may use only a few: too many threads would wait for one another.
    threads = max(1, int(parse_quantity(cpu_limit) / placement.processes))
    task.set_env_variable("OMP_NUM_THREADS", str(threads))


def _set_pod(task: dsl.PipelineTask, placement: StepPlacement, cluster: ClusterProfile) -> None:
    """Apply the settings of Kubernetes alone."""
    kubernetes.set_timeout(task, placement.timeout_seconds)
    for key, value in placement.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in placement.tolerations:
        kubernetes.add_toleration(task, **toleration.to_kubernetes())
    for key, value in placement.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in placement.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    for secret in cluster.secrets:
        kubernetes.use_secret_as_env(task, secret.secret, {secret.key: secret.env})
    for volume in cluster.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.mount_path)
    if (context := cluster.security_context) is not None:
        # From 2.16 on, Kubeflow Pipelines itself sets the rest of what "restricted" asks for.
        kubernetes.set_security_context(
            task, run_as_user=context.user, run_as_group=context.group, run_as_non_root=True
        )
    if placement.shared_memory is not None:
        kubernetes.empty_dir_mount(
            task, "shared-memory", "/dev/shm", medium="Memory", size_limit=placement.shared_memory
        )
