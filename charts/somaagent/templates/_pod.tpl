{{/* The pod of a workload: (list root workload). */}}
{{- define "somaagent.pod" -}}
{{- $root := index . 0 -}}
{{- $workload := index . 1 -}}
metadata:
  labels:
    {{- include "somaagent.selectorLabels" $root | nindent 4 }}
    app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
    {{- toYaml (merge (dict) $root.Values.podLabels $root.Values.commonLabels $workload.labels) | nindent 4 }}
  annotations:
    # A pod reads its settings once, so that it is replaced when they change.
    checksum/config: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
    checksum/secret: {{ include (print $root.Template.BasePath "/secret.yaml") $root | sha256sum }}
    {{- with merge (dict) $root.Values.podAnnotations $root.Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "somaagent.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # A Service called `sa01-…` would put variables into the pod that look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $root.Values.shutdown.gracePeriodSeconds }}
  securityContext:
    {{- include "somaagent.podSecurityContext" $root | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $workload.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $root.Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $root.Values.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with $root.Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $workload.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $workload.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $workload.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq $root.Values.mode "prod" }}
  topologySpreadConstraints:
    {{- if $workload.topologySpreadConstraints }}
    {{- tpl (toYaml $workload.topologySpreadConstraints) $root | nindent 4 }}
    {{- else }}
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "somaagent.selectorLabels" $root | nindent 10 }}
          app.kubernetes.io/component: {{ get $workload.labels "app.kubernetes.io/component" }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
    {{- end }}
  {{- end }}
  {{- if or $root.Values.migrate.enabled $root.Values.extraInitContainers }}
  initContainers:
    {{- with $root.Values.extraInitContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $root.Values.migrate.enabled }}
    - name: migrate
      {{- include "somaagent.container" (list $root $workload) | nindent 6 }}
      args: [migrate]
      resources:
        {{- toYaml $root.Values.migrate.resources | nindent 8 }}
    {{- end }}
  {{- end }}
  containers:
    - name: somaagent
      {{- include "somaagent.container" (list $root $workload) | nindent 6 }}
      args:
        {{- concat (list "run") $root.Values.extraArgs | toYaml | nindent 8 }}
      ports:
        - {name: api, containerPort: 8010, protocol: TCP}
        - {name: admin, containerPort: 9400, protocol: TCP}
      {{- with $root.Values.probes }}
      startupProbe:
        httpGet: {path: /startup, port: admin}
        {{- toYaml .startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: /live, port: admin}
        {{- toYaml .live | nindent 8 }}
      readinessProbe:
        httpGet: {path: /ready, port: admin}
        {{- toYaml .ready | nindent 8 }}
      {{- end }}
      lifecycle:
        preStop:
          exec:
            command: [somaagent, sleep, {{ int $root.Values.shutdown.preStopSeconds | toString | quote }}]
      resources:
        {{- toYaml $workload.resources | nindent 8 }}
    {{- with $root.Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- if eq $root.Values.mode "prod" }}
    - name: data
      emptyDir: {sizeLimit: {{ $root.Values.temporary.data }}}
    {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: {{ $root.Values.temporary.tmp }}}
    {{- if $root.Values.personas }}
    - name: files
      configMap: {name: {{ include "somaagent.fullname" $root }}-files}
    {{- end }}
    {{- with $root.Values.toolFiles.existingClaim }}
    - name: tool-files
      persistentVolumeClaim: {claimName: {{ . }}}
    {{- end }}
    {{- with $root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* What the platform's own containers have in common. */}}
{{- define "somaagent.container" -}}
{{- $root := index . 0 -}}
{{- $workload := index . 1 -}}
image: {{ include "somaagent.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command: [somaagent]
workingDir: /var/lib/somaagent
securityContext:
  {{- include "somaagent.securityContext" $root | nindent 2 }}
envFrom:
  - configMapRef: {name: {{ include "somaagent.fullname" $root }}}
  {{- if include "somaagent.hasSecret" $root }}
  - secretRef: {name: {{ include "somaagent.secretName" $root }}}
  {{- end }}
  {{- with $root.Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $own := dict -}}
{{- if $workload.services -}}
  {{- $_ := set $own "SA01_SERVICES" (join "," $workload.services) -}}
{{- end -}}
{{- range $name, $value := $workload.config -}}
  {{- $_ := set $own $name (include "somaagent.setting" $value) -}}
{{- end }}
{{- if or $own $root.Values.extraEnv }}
env:
  {{- range $name, $value := $own }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  {{- with $root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
volumeMounts:
  - {name: data, mountPath: /var/lib/somaagent}
  - {name: tmp, mountPath: /tmp}
  {{- if $root.Values.personas }}
  - {name: files, mountPath: /etc/somaagent, readOnly: true}
  {{- end }}
  {{- if $root.Values.toolFiles.existingClaim }}
  - {name: tool-files, mountPath: /var/lib/somaagent-files}
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Pod Security *restricted*. The user and group are those of the image. */}}
{{- define "somaagent.podSecurityContext" -}}
{{- $ours := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mergeOverwrite $ours (deepCopy .Values.podSecurityContext)) -}}
{{- end -}}

{{- define "somaagent.securityContext" -}}
{{- $ours := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- toYaml (mergeOverwrite $ours (deepCopy .Values.securityContext)) -}}
{{- end -}}
