{{/*
What runs: a JSON list with one object for each Deployment. With `roles` each role takes what it does
not say itself from the chart's values. `suffix` and `labels` tell the roles apart.
*/}}
{{- define "somaagent.workloads" -}}
{{- $own := pick .Values "replicaCount" "resources" "autoscaling" "keda" "podDisruptionBudget" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" -}}
{{- $workloads := list -}}
{{- if .Values.roles -}}
  {{- range $role, $says := .Values.roles -}}
    {{- $workload := mergeOverwrite (deepCopy $own) (deepCopy $says) -}}
    {{- $labels := dict "app.kubernetes.io/component" $role -}}
    {{- if has "gateway" $says.services -}}
      {{- $_ := set $labels "somaagent/api" "true" -}}
    {{- end -}}
    {{- $workload = merge (dict "role" $role "suffix" (printf "-%s" $role) "labels" $labels) $workload -}}
    {{- $workloads = append $workloads $workload -}}
  {{- end -}}
{{- else -}}
  {{- $labels := dict "app.kubernetes.io/component" "all" "somaagent/api" "true" -}}
  {{- $workloads = append $workloads (merge (dict "role" "" "suffix" "" "labels" $labels "services" list "config" dict) $own) -}}
{{- end -}}
{{- toJson $workloads -}}
{{- end -}}

{{/* How many replicas a workload has while nothing scales it; empty where something does. */}}
{{- define "somaagent.replicas" -}}
{{- $root := index . 0 -}}
{{- $workload := index . 1 -}}
{{- if $root.Values.standby -}}0
{{- else if eq $root.Values.mode "dev" -}}1
{{- else if not (or $workload.autoscaling.enabled $workload.keda.enabled) -}}{{ int $workload.replicaCount }}
{{- end -}}
{{- end -}}

{{/* A setting as a pod sees it: numbers without an exponent. */}}
{{- define "somaagent.setting" -}}
{{- if kindIs "float64" . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Seconds of a duration such as `45s`, `1m` or `1500ms`. */}}
{{- define "somaagent.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- if eq $unit "ms" -}}{{ div $number 1000 }}
{{- else -}}{{ mul $number (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400 "" 1) $unit) }}
{{- end -}}
{{- end -}}
