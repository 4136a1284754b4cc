"""What KubeRay (1.6 and 1.7) and Kubernetes take, as far as deploy/ makes use of it.

KubeRay's own definitions are large, and Kubernetes drops in silence what they do not name. Here,
any other field is a mistake. `test_kubernetes.py` compares this with KubeRay's definitions where it
is told where they are.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NAME: Schema = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def record(required: str = "", **fields: Schema) -> Schema:
    """An object of these fields and no others. Args: required: names, separated by spaces."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


RESOURCES = record(limits=QUANTITIES, requests=QUANTITIES)
LOCKED = record(
    allowPrivilegeEscalation=FLAG,
    capabilities=record(add=several(TEXT), drop=several(TEXT)),
    privileged=FLAG,
    readOnlyRootFilesystem=FLAG,
)
CONTAINER = record(
    "name image resources",
    name=NAME,
    image=TEXT,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    ports=several(record("containerPort", name=NAME, containerPort=COUNT)),
    envFrom=several(
        record(
            secretRef=record("name", name=NAME, optional=FLAG),
            configMapRef=record("name", name=NAME, optional=FLAG),
        )
    ),
    env=several(record("name value", name=TEXT, value=TEXT)),
    resources=RESOURCES,
    securityContext=LOCKED,
    volumeMounts=several(
        record("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)
    ),
)
VOLUME = record(
    "name emptyDir",
    name=NAME,
    emptyDir=record(medium=one_of("Memory"), sizeLimit=QUANTITY),
)
TOLERATION = record(
    "operator",
    key=TEXT,
    operator=one_of("Exists", "Equal"),
    value=TEXT,
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
)
POD = record(
    "spec",
    metadata=record(labels=TEXTS, annotations=TEXTS),
    spec=record(
        "containers",
        containers=several(CONTAINER),
        volumes=several(VOLUME),
        nodeSelector=TEXTS,
        tolerations=several(TOLERATION),
        terminationGracePeriodSeconds=COUNT,
        serviceAccountName=NAME,
        automountServiceAccountToken=FLAG,
        imagePullSecrets=several(record("name", name=NAME)),
        securityContext=record(
            runAsNonRoot=FLAG,
            runAsUser=COUNT,
            runAsGroup=COUNT,
            fsGroup=COUNT,
            seccompProfile=record("type", type=one_of("RuntimeDefault", "Unconfined")),
        ),
    ),
)
HEAD = record(
    "rayStartParams template",
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
    enableIngress=FLAG,
    rayStartParams={"type": "object", "additionalProperties": TEXT},
    template=POD,
)
WORKERS = record(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams={"type": "object", "additionalProperties": TEXT},
    template=POD,
)
CLUSTER = record(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=record("mode", mode=one_of("disabled", "token"), secretName=NAME),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=COUNT,
        imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
        securityContext=LOCKED,
        resources=RESOURCES,
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=several(WORKERS),
)
JOB = record(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"),
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    suspend=FLAG,
    rayClusterSpec=CLUSTER,
)


def _manifest(kind: str, spec: Schema) -> Schema:
    return record(
        "apiVersion kind metadata spec",
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=record("name", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS),
        spec=spec,
    )


MANIFESTS = {"RayCluster": _manifest("RayCluster", CLUSTER), "RayJob": _manifest("RayJob", JOB)}
"""By kind."""
