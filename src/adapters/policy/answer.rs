//! What the policy's answer means, whichever engine gave it. Pure.

use serde_json::Value;
use soma_contract::port::policy::Decision;

/// Reads `{allow, reason}` or a plain boolean; anything else is a denial, never a truthy object.
/// `None`: the rule is undefined for this input.
pub(super) fn understood(answer: Option<&Value>) -> Decision {
    let Some(answer) = answer else {
        return Decision::Deny("the policy says nothing of this".to_owned());
    };
    let allow = answer.as_bool().or_else(|| answer.get("allow")?.as_bool());
    let reason = answer.get("reason").and_then(Value::as_str);
    match allow {
        Some(true) => Decision::Allow,
        Some(false) => Decision::Deny(match reason {
            Some(reason) if !reason.is_empty() => reason.to_owned(),
            _ => "denied by the policy".to_owned(),
        }),
        None => {
            tracing::error!(%answer, "the policy's answer has no boolean `allow`");
            Decision::Deny("the policy's answer is malformed".to_owned())
        }
    }
}

/// What is said of an input on which the rules cannot be evaluated: asking again would fail again.
pub(super) fn not_evaluated(error: &str) -> Decision {
    tracing::error!(error, "the policy cannot be evaluated; this is denied");
    Decision::Deny("the policy cannot be evaluated".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_true_allow_allows() {
        for (answer, reason) in [
            (json!({"allow": false, "reason": "not today"}), "not today"),
            (json!({"allow": false, "reason": ""}), "denied by the policy"),
            (json!({"allow": false, "reason": 7}), "denied by the policy"),
            (json!({"allow": "true"}), "the policy's answer is malformed"),
            (json!({"allowed": true}), "the policy's answer is malformed"),
            (json!([true]), "the policy's answer is malformed"),
            (json!(1), "the policy's answer is malformed"),
            (json!("true"), "the policy's answer is malformed"),
            (json!(null), "the policy's answer is malformed"),
            (json!(false), "denied by the policy"),
        ] {
            assert_eq!(understood(Some(&answer)), Decision::Deny(reason.to_owned()), "{answer}");
        }
        for answer in [json!(true), json!({"allow": true}), json!({"allow": true, "reason": "x"})] {
            assert_eq!(understood(Some(&answer)), Decision::Allow, "{answer}");
        }
        let nothing = Decision::Deny("the policy says nothing of this".to_owned());
        assert_eq!(understood(None), nothing);
    }
}
