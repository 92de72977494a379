{{/*
What the schema cannot say: what values demand of each other. All faults are told at once, as the
executable tells those of its settings.
*/}}
{{- define "somaagent.check" -}}
{{- $faults := concat (include "somaagent.faults.servers" . | fromJsonArray) (include "somaagent.faults.roles" . | fromJsonArray) (include "somaagent.faults.scaling" . | fromJsonArray) (include "somaagent.faults.shutdown" . | fromJsonArray) -}}
{{- if $faults -}}
{{- fail (printf "\n\n%d faults in the values:\n  - %s\n" (len $faults) (join "\n  - " $faults)) -}}
{{- end -}}
{{- end -}}

{{/* Whether a setting is given in a place that the chart can see. */}}
{{- define "somaagent.isGiven" -}}
{{- $values := (index . 0).Values -}}
{{- $name := index . 1 -}}
{{- $given := or (hasKey $values.config $name) (hasKey $values.secrets $name) -}}
{{- range $values.extraEnv -}}
  {{- if or (eq .name $name) (eq .name (printf "%s_FILE" $name)) -}}{{- $given = true -}}{{- end -}}
{{- end -}}
{{- if $given -}}true{{- end -}}
{{- end -}}

{{- define "somaagent.faults.servers" -}}
{{- $faults := list -}}
{{- $hidden := or .Values.existingSecret .Values.extraEnvFrom -}}
{{- if eq .Values.mode "prod" -}}
  {{- range $name, $example := dict "SA01_KAFKA_BOOTSTRAP_SERVERS" "kafka:9092" "SA01_POLICY_URL" "http://opa:8181" -}}
    {{- if not (or (include "somaagent.isGiven" (list $ $name)) $.Values.extraEnvFrom) -}}
      {{- $faults = append $faults (printf "config.%s is missing: `prod` needs it, such as `%s`" $name $example) -}}
    {{- end -}}
  {{- end -}}
  {{- range $name, $example := dict "SA01_DB_DSN" "postgresql://USER:PASSWORD@HOST:5432/DATABASE" "SA01_REDIS_URL" "redis://HOST:6379/0" -}}
    {{- if not (or (include "somaagent.isGiven" (list $ $name)) $hidden) -}}
      {{- $faults = append $faults (printf "secrets.%s is missing: `prod` needs it, such as `%s`; or name an existingSecret that has it" $name $example) -}}
    {{- end -}}
  {{- end -}}
{{- else -}}
  {{- range $name := list "SA01_KAFKA_BOOTSTRAP_SERVERS" "SA01_REDIS_URL" -}}
    {{- if include "somaagent.isGiven" (list $ $name) -}}
      {{- $faults = append $faults (printf "%s is set: replicas share it, and mode `dev` has one; use mode `prod`" $name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $keys := false -}}
{{- range list "SA01_AUTH_JWT_SECRET" "SA01_AUTH_JWT_PUBLIC_KEY" "SA01_AUTH_JWKS_URL" -}}
  {{- if include "somaagent.isGiven" (list $ .) -}}{{- $keys = true -}}{{- end -}}
{{- end -}}
{{- if not (or $keys $hidden) -}}
  {{- $faults = append $faults "nobody could get in: set config.SA01_AUTH_JWKS_URL, secrets.SA01_AUTH_JWT_PUBLIC_KEY or secrets.SA01_AUTH_JWT_SECRET; or name an existingSecret that has one" -}}
{{- end -}}
{{- if and .Values.existingSecret .Values.secrets -}}
  {{- $faults = append $faults "existingSecret and secrets are both set; keep one of them" -}}
{{- end -}}
{{- range $name, $_ := .Values.secrets -}}
  {{- if hasKey $.Values.config $name -}}
    {{- $faults = append $faults (printf "%s is in config and in secrets; keep one of them" $name) -}}
  {{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* The schema knows which services there are; here: that each of them runs somewhere. */}}
{{- define "somaagent.faults.roles" -}}
{{- $faults := list -}}
{{- if .Values.roles -}}
  {{- if eq .Values.mode "dev" -}}
    {{- $faults = append $faults "roles need servers that they share: use mode `prod`" -}}
  {{- end -}}
  {{- $running := list -}}
  {{- range $_, $role := .Values.roles -}}{{- $running = concat $running $role.services -}}{{- end -}}
  {{- range list "unified-memory" "tool-executor" "conversation-worker" "gateway" "housekeeping" -}}
    {{- if not (has . $running) -}}
      {{- $faults = append $faults (printf "no role runs `%s`" .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "somaagent.faults.scaling" -}}
{{- $faults := list -}}
{{- range include "somaagent.workloads" . | fromJsonArray -}}
  {{- $of := ternary (printf " of role `%s`" .role) "" (ne .role "") -}}
  {{- if and .autoscaling.enabled .keda.enabled -}}
    {{- $faults = append $faults (printf "autoscaling and keda%s are both enabled; keep one of them" $of) -}}
  {{- end -}}
  {{- range $name, $scaler := dict "autoscaling" .autoscaling "keda" .keda -}}
    {{- if and $scaler.enabled (eq $.Values.mode "dev") -}}
      {{- $faults = append $faults (printf "%s is enabled, and mode `dev` has one replica" $name) -}}
    {{- end -}}
    {{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
      {{- $faults = append $faults (printf "%s.minReplicas%s is more than maxReplicas" $name $of) -}}
    {{- end -}}
  {{- end -}}
  {{- if and .autoscaling.enabled (not .autoscaling.targetCPUUtilizationPercentage) (not .autoscaling.targetMemoryUtilizationPercentage) -}}
    {{- $faults = append $faults (printf "autoscaling%s looks at neither CPU nor memory" $of) -}}
  {{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "somaagent.faults.shutdown" -}}
{{- $faults := list -}}
{{- $kill := include "somaagent.seconds" (default "45s" .Values.config.SA01_SHUTDOWN_KILL) | int -}}
{{- if ge (add .Values.shutdown.preStopSeconds $kill) (.Values.shutdown.gracePeriodSeconds | int64) -}}
  {{- $faults = append $faults (printf "shutdown.gracePeriodSeconds is not more than preStopSeconds (%d) and SA01_SHUTDOWN_KILL (%d s) together: pods would be killed while they drain" (int .Values.shutdown.preStopSeconds) $kill) -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}
