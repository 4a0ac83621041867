"""Condition types and their reasons: a closed list, so that people can write alerts on them."""

from enum import StrEnum


class ConditionType(StrEnum):
    """Conditions of an InferenceService.

    Ready follows from the next four: while requests are answered it is True, whatever SpecValid
    and WorkloadReady are.
    """

    READY = "Ready"
    SPEC_VALID = "SpecValid"
    MODEL_READY = "ModelReady"
    WORKLOAD_READY = "WorkloadReady"
    ROUTER_READY = "RouterReady"  # only where a router stands before the pods
    PREFIX_CACHE_WARM = "PrefixCacheWarm"
    SPECULATION_EFFECTIVE = "SpeculationEffective"  # only where drafts are asked for
    SCALING_ACTIVE = "ScalingActive"  # only with `scaling`, or where another scales the Deployment


class Reason(StrEnum):
    """Why a condition is as it is."""

    READY = "Ready"

    # SpecValid
    VALID = "Valid"
    DRIFTED = "Drifted"  # somebody has added to the pods of a Deployment what the spec lacks
    INVALID_SPEC = "InvalidSpec"  # a value that the schema cannot refuse
    INVALID_CONFIGURATION = "InvalidConfiguration"  # the runtime refused its flags
    UNSUPPORTED_MODEL = "UnsupportedModel"  # an architecture or feature the runtime lacks
    OUT_OF_MEMORY_FOR_MODEL = "ModelDoesNotFit"  # weights or one request exceed the memory
    NAME_CONFLICT = "NameConflict"  # a child's name is taken by an object of somebody else
    OBJECT_REFUSED = "ObjectRefused"  # the API server refused a child
    OBJECT_BEING_DELETED = "ObjectBeingDeleted"  # a child that finalizers keep from being made anew

    # ModelReady
    LOADED = "Loaded"
    LOADING = "Loading"
    DOWNLOADING = "Downloading"
    WAITING_FOR_PODS = "WaitingForPods"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_UNREADABLE = "ModelUnreadable"  # truncated, not safetensors, shapes that do not fit
    ACCESS_DENIED = "AccessDenied"
    SOURCE_UNREACHABLE = "SourceUnreachable"

    # WorkloadReady
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    SUSPENDED = "Suspended"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    MOUNT_FAILED = "MountFailed"  # a claim or Secret that the pod mounts does not exist
    CANNOT_START = "CannotStart"  # the kubelet cannot create the pod, or its container
    RESTARTING = "Restarting"  # a container has ended once, or was killed, and is started again
    CRASH_LOOPING = "CrashLooping"  # again and again
    OUT_OF_MEMORY = "OutOfMemory"
    UNSCHEDULABLE = "Unschedulable"
    ROLLOUT_BLOCKED = "RolloutBlocked"  # no node has room for the new pod beside the only old one
    PODS_REFUSED = "PodsRefused"  # quota, admission or limits refuse new pods
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    INTERNAL_ERROR = "InternalError"  # a bug of the runtime
    SCALED_TO_ZERO = "ScaledToZero"  # nothing was asked for a while; the next request starts a pod

    # RouterReady; Available, Progressing, Suspended and what is wrong with a pod, too
    BYPASSED = "Bypassed"  # requests still go straight to the pods
    SECRET_DIFFERS = "SecretDiffers"  # pods take a router for a client: its secret is not theirs

    # PrefixCacheWarm
    WARM = "Warm"
    COLD = "Cold"  # prompts come, and hardly a token of them is in a cache
    NO_PROMPTS = "NoPrompts"  # none came lately, or the pods do not tell
    DISABLED = "Disabled"
    PREFIX_CACHE_SIZE_CLAMPED = "PrefixCacheSizeClamped"  # of an event: size exceeds the memory

    # SpeculationEffective; OutOfMemory, too
    ACTIVE = "Active"
    VOCABULARY_MISMATCH = "VocabularyMismatch"  # the draft has other tokens than the model
    CONTEXT_TOO_SHORT = "ContextTooShort"  # of the draft
    DRAFT_UNAVAILABLE = "DraftUnavailable"  # not found, not readable, or it failed
    LOW_ACCEPTANCE = "LowAcceptance"  # too few drafted tokens are right
    NO_GAIN = "NoGain"  # enough are right, but drafting takes too long

    # ScalingActive; Suspended, Unschedulable and ScaledToZero, too
    STEADY = "Steady"
    LOAD_GREW = "LoadGrew"
    LOAD_FELL = "LoadFell"
    BOUNDS = "Bounds"  # minReplicas or maxReplicas moved the number, or the former holds it
    AT_MAXIMUM = "AtMaximum"  # there are as many pods as may be, and more are needed
    SETTLING = "Settling"  # behavior, or a pod that starts, holds the number for a while
    WAITING_FOR_REPORTS = "WaitingForReports"  # nothing was measured yet
    REPORTS_MISSING = "ReportsMissing"  # a pod does not tell its load, or nobody who else scales
    OBJECTIVE_UNREACHABLE = "ObjectiveUnreachable"  # by up to maxReplicas pods: it does not count
    CACHE_TOO_SMALL = "CacheTooSmall"  # for the prompts that come again and again: likewise
    CONFLICT = "Conflict"  # another autoscaler scales it, too
