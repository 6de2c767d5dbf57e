{{- define "gpu-standby.labels" -}}
app.kubernetes.io/name: gpu-standby
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "gpu-standby.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- define "gpu-standby.installationConfigMap" -}}
gpu-standby-installation
{{- end }}
{{- /* What the operator does in the namespaces it serves, verb by verb. Server-side apply needs create and patch. */ -}}
{{- define "gpu-standby.rules" -}}
- apiGroups: [gpustandby.dev]
  resources: [gpustandbypairs]
  verbs: [get, list, watch, patch]
- apiGroups: [gpustandby.dev]
  resources: [gpureplacements]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gpustandby.dev]
  resources: [gpustandbypairs/status, gpureplacements/status]
  verbs: [patch]
# To be the owner of what it makes, where the API server enforces that right.
- apiGroups: [gpustandby.dev]
  resources: [gpustandbypairs/finalizers, gpureplacements/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
# Those that pairs name are read, and those made for a pair are made and removed; none is ever changed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch]
# Without it the API server refuses endpoints that a controller sets itself.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices/restricted]
  verbs: [create]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, create, patch, delete]
# Each pair's mover gets one ConfigMap and nothing else; what is granted is held above.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, patch]
{{- end }}
