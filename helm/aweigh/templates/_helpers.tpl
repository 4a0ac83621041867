{{/* Name of the operator's objects: aweigh-operator for the release aweigh. */}}
{{- define "aweigh.operator" -}}
{{ printf "%s-operator" (.Release.Name | trunc 46 | trimSuffix "-") }}
{{- end }}

{{/* The same for objects without a namespace, which two releases must not share. */}}
{{- define "aweigh.clusterScoped" -}}
{{ printf "%s:%s" .Release.Namespace (include "aweigh.operator" .) }}
{{- end }}

{{/* What selects the operator's pods. */}}
{{- define "aweigh.selector" -}}
app.kubernetes.io/name: aweigh-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "aweigh.labels" -}}
{{ include "aweigh.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: aweigh
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What the operator may do in a namespace that it watches; nothing else, anywhere. */}}
{{- define "aweigh.rules" -}}
- apiGroups: [serving.aweigh.dev]
  resources: [inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [serving.aweigh.dev]
  resources: [inferenceservices/status]
  verbs: [patch]
- apiGroups: [serving.aweigh.dev]
  resources: [inferenceservices/finalizers] # owner references that block the owner's deletion
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete] # delete: of a router
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete] # likewise
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings] # of routers; none may hold more than what follows
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices] # which pods are ready: the operator never asks, but routers do
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets] # that a service's pods and routers share: made, and never read
  verbs: [create]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs] # that fetch models before pods wait for them
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch] # patch: which pods go first when there are too many
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers] # whether another scales what is ours to scale
  verbs: [list]
- apiGroups: [""]
  resources: [events] # why a volume cannot be mounted stands only there
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* Not empty where there shall be PodMonitors. */}}
{{- define "aweigh.podMonitors" -}}
{{- $asked := toString .Values.metrics.podMonitor.enabled -}}
{{- $known := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PodMonitor" -}}
{{- if or (eq $asked "true") (and (eq $asked "auto") $known) -}}
true
{{- end -}}
{{- end }}
