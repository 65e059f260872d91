{{/* Names */}}
{{- define "neartime.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "neartime.workers" -}}
{{- default (printf "%s-workers" (include "neartime.fullname" .)) .Values.workers.namespace.name -}}
{{- end -}}

{{- define "neartime.operatorSecret" -}}
{{- default (printf "%s-operator" (include "neartime.fullname" .)) .Values.operatorSecret.existingSecret -}}
{{- end -}}

{{/* Labels: `include "neartime.labels" (list . "server")` */}}
{{- define "neartime.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "neartime.labels" -}}
{{- $root := index . 0 -}}
{{ include "neartime.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image: `include "neartime.image" (list . .Values.nats.image)` */}}
{{- define "neartime.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 0).Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "neartime.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the level `restricted` of Pod Security wants */}}
{{- define "neartime.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "neartime.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where NATS is */}}
{{- define "neartime.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- printf "nats://%s-nats.%s:4222" (include "neartime.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- .Values.nats.external.url -}}
{{- end -}}
{{- end -}}

{{/* What every command of the server has to know: the database */}}
{{- define "neartime.databaseEnv" -}}
{{- if .Values.postgresql.enabled -}}
- name: PGPASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "neartime.fullname" . }}-postgresql, key: password}}
- name: NEARTIME_DATABASE
  value: postgresql+psycopg://neartime@{{ include "neartime.fullname" . }}-postgresql.{{ .Release.Namespace }}/neartime
{{- else -}}
- name: NEARTIME_DATABASE
  valueFrom: {secretKeyRef: {name: {{ .Values.database.existingSecret }}, key: {{ .Values.database.key }}}}
{{- end -}}
{{- end -}}

{{/* The container that brings tables up to date, in a server's pod and in the hook */}}
{{- define "neartime.migrate" -}}
- name: migrate
  image: {{ include "neartime.image" (list . .Values.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python, -m, neartime_server, admin, migrate, --wait, "300", --instance, {{ .Values.instance | quote }}]
  env:
    {{- include "neartime.databaseEnv" . | nindent 4 }}
    - {name: HOME, value: /tmp}
  resources:
    requests: {cpu: 50m, memory: 128Mi}
    limits: {memory: 512Mi}
  securityContext:
    {{- include "neartime.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* A value as TOML has it. Numbers of values are floats to templates, and whole ones in JSON. */}}
{{- define "neartime.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }}, {{ end }}{{ toJson $key }} = {{ include "neartime.toml" (get $ $key) }}{{ end -}} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $one := . }}{{ if $index }}, {{ end }}{{ include "neartime.toml" $one }}{{ end }}]
{{- else if kindIs "invalid" . -}}
{{- fail "backends: a value is null, which a backends file can't hold; leave its key out" -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{- define "neartime.backendsFile" -}}
{{- range .Values.backends }}
[[backends]]
{{- range $key, $value := . }}
{{ $key }} = {{ include "neartime.toml" $value }}
{{- end }}
{{ end }}
{{- end -}}

{{/* NATS' configuration, but for what the init container writes */}}
{{- define "neartime.natsConfig" -}}
{{- $name := printf "%s-nats" (include "neartime.fullname" .) -}}
port: 4222
http_port: 8222
pid_file: "/tmp/nats.pid"
lame_duck_grace_period: 5s
lame_duck_duration: 30s
{{- if .Values.nats.tls.existingSecret }}
tls { cert_file: "/etc/nats-tls/tls.crt", key_file: "/etc/nats-tls/tls.key" }
allow_non_tls: true # pods of this cluster, kept apart by a policy
{{- end }}
{{- if gt (int .Values.nats.replicas) 1 }}
cluster {
  name: neartime
  port: 6222
  no_advertise: true # clients come by the Service, and know no pod's address
  routes: [
    {{- range $number := until (int .Values.nats.replicas) }}
    "nats://{{ $name }}-{{ $number }}.{{ $name }}-peers.{{ $.Release.Namespace }}:6222"
    {{- end }}
  ]
}
{{- end }}
include "../nats-operator/operator.conf" # by the init container, from the operator's secret; it holds none
{{- end -}}
