{{- define "gpu-standby.labels" -}}
app.kubernetes.io/name: gpu-standby
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "gpu-standby.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- define "gpu-standby.rules" -}}
- apiGroups: [gpustandby.dev]
  resources: [gpustandbypairs, gpureplacements]
  verbs: [get, list, watch, patch, create, delete]
- apiGroups: [gpustandby.dev]
  resources: [gpustandbypairs/status, gpureplacements/status, gpustandbypairs/finalizers, gpureplacements/finalizers]
  verbs: [get, patch, update]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch]
# Without it the API server refuses endpoints that a controller sets itself.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices/restricted]
  verbs: [create]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, create, patch, delete]
# Each pair's mover gets one ConfigMap and nothing else; what is granted is held above.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, patch]
{{- end }}
