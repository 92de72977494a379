# What callers of the platform and its agents may do. Read docs/policy.md before you change it.
#
# The platform asks for `data.soma.policy.decision`, an object {allow, reason}, with the input
# {tenant, subject, persona_id, action, resource, context}. Whatever no rule allows is denied.
package soma.policy

import rego.v1

default allow := false

allow if {
	permitted
	count(denials) == 0
}

decision := {"allow": true, "reason": "allowed"} if allow

decision := {"allow": false, "reason": concat("; ", sort(denials))} if not allow

# A caller that is known may send messages within its tenant.
permitted if {
	input.action == "conversation.send"
	known_caller
}

# Tools that are listed in data.json may be used.
permitted if {
	input.action == "tool.execute"
	known_caller
	input.resource in data.tools.known
}

# Memories may be written and deleted.
permitted if {
	input.action == "memory.write"
	known_caller
}

# Admin routes are for callers whose token or key says so.
permitted if {
	input.action == "admin"
	known_caller
	input.context.admin == true
}

known_caller if {
	input.tenant != ""
	input.subject != ""
}

# Denials win over permissions. Their texts are told to the caller or to the model.
denials contains sprintf("the tool `%s` is switched off", [input.resource]) if {
	input.action == "tool.execute"
	input.resource in data.tools.denied
}

denials contains sprintf("the tool `%s` is switched off for this tenant", [input.resource]) if {
	input.action == "tool.execute"
	input.resource in data.tools.denied_by_tenant[input.tenant]
}

denials contains "this concerns every tenant: only administrators of the operator's own may" if {
	input.action == "admin"
	input.resource in data.admin.process_wide
	not input.tenant in data.admin.operators
}

denials contains reason if {
	not permitted
	reason := refusal
}

default refusal := "no rule allows this"

refusal := sprintf("the policy knows no tool `%s`", [input.resource]) if {
	input.action == "tool.execute"
	not input.resource in data.tools.known
}

refusal := "admin rights are needed" if input.action == "admin"
