{{- /* The labels of a workload: a list of the root, its component and its name. */ -}}
{{- define "labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/name: {{ index . 2 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}-{{ index . 2 }}
app.kubernetes.io/part-of: matrix-stack
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end -}}

{{- /* The Secret of a credential: a list of the root, its value, and the key of the generated one. */ -}}
{{- define "secret-name" -}}
{{- $root := index . 0 -}}{{- $value := index . 1 -}}
{{- if $value.value -}}{{ $root.Release.Name }}-synapse
{{- else if $value.secret -}}{{ tpl $value.secret $root }}
{{- else -}}{{ $root.Release.Name }}-generated{{- end -}}
{{- end -}}
{{- define "secret-key" -}}
{{- $value := index . 1 -}}
{{- if $value.value -}}{{ index . 3 }}
{{- else if $value.secretKey -}}{{ $value.secretKey }}
{{- else -}}{{ index . 2 }}{{- end -}}
{{- end -}}
{{- define "secret-path" -}}
/secrets/{{ include "secret-name" . }}/{{ include "secret-key" . }}
{{- end -}}

{{- define "restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
{{- define "pod-security" -}}
runAsNonRoot: true
runAsUser: 10091
runAsGroup: 10091
fsGroup: 10091
seccompProfile:
  type: RuntimeDefault
{{- end -}}
