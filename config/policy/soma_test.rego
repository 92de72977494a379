# Tests of the shipped policy: `opa test config/policy`, or `cargo test rego`.
package soma.policy_test

import rego.v1

import data.soma.policy

asked(action, resource, context) := {
	"tenant": "acme",
	"subject": "ada",
	"persona_id": null,
	"action": action,
	"resource": resource,
	"context": context,
}

test_a_known_caller_may_send if {
	policy.decision.allow with input as asked("conversation.send", "message", {"session_id": "s"})
}

test_nobody_may_not_send if {
	nobody := object.union(asked("conversation.send", "message", {}), {"subject": ""})
	not policy.decision.allow with input as nobody
}

test_a_known_tool_may_run if {
	policy.decision.allow with input as asked("tool.execute", "echo", {"args": {"text": "hi"}})
}

test_an_unknown_tool_may_not_run if {
	decision := policy.decision with input as asked("tool.execute", "rm_rf", {"args": {}})
	not decision.allow
	decision.reason == "the policy knows no tool `rm_rf`"
}

test_a_denied_tool_may_not_run if {
	decision := policy.decision with input as asked("tool.execute", "http_fetch", {"args": {}})
		with data.tools.denied as ["http_fetch"]
	not decision.allow
	decision.reason == "the tool `http_fetch` is switched off"
}

test_a_tool_is_denied_to_one_tenant_alone if {
	input_of_acme := asked("tool.execute", "http_fetch", {"args": {}})
	input_of_other := object.union(input_of_acme, {"tenant": "other"})
	denied := {"acme": ["http_fetch"]}
	not policy.decision.allow with input as input_of_acme with data.tools.denied_by_tenant as denied
	policy.decision.allow with input as input_of_other with data.tools.denied_by_tenant as denied
}

test_memories_may_be_written if {
	policy.decision.allow with input as asked("memory.write", "memory", {"kind": "fact"})
}

test_admin_routes_are_for_admins if {
	policy.decision.allow with input as asked("admin", "/v1/admin/dlq", {"admin": true})
	not policy.decision.allow with input as asked("admin", "/v1/admin/dlq", {"admin": false})
	not policy.decision.allow with input as asked("admin", "/v1/admin/dlq", {"admin": "true"})
	decision := policy.decision with input as asked("admin", "/v1/admin/dlq", {})
	decision.reason == "admin rights are needed"
}

test_what_concerns_every_tenant_is_for_operators if {
	of_acme := asked("admin", "/v1/services/{name}/restart", {"admin": true})
	decision := policy.decision with input as of_acme
	not decision.allow
	startswith(decision.reason, "this concerns every tenant")
	policy.decision.allow with input as object.union(of_acme, {"tenant": "public"})
	policy.decision.allow with input as of_acme with data.admin.operators as ["acme"]
}

test_an_unknown_action_is_denied if {
	decision := policy.decision with input as asked("settings.update", "x", {"admin": true})
	not decision.allow
	decision.reason == "no rule allows this"
}

test_plain_allow_agrees_with_the_decision if {
	policy.allow with input as asked("conversation.send", "message", {})
	not policy.allow with input as asked("settings.update", "x", {})
}
