//! The names of the predecessor: those that still mean something, and those that no longer do.

/// A name of the predecessor whose value is still used.
#[derive(Debug)]
pub(crate) struct Legacy {
    /// The old name.
    pub(crate) name: &'static str,
    /// The key that has taken its place.
    pub(crate) key: &'static str,
    /// How the old value is written in the new way.
    pub(crate) spelling: Spelling,
}

/// How the predecessor wrote a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As it is written today.
    Same,
    /// Seconds, perhaps with a fraction.
    Seconds,
    /// Mebibytes.
    Mebibytes,
    /// A level of Python's logging.
    PythonLevel,
}

impl Spelling {
    /// Writes an old value in the new way. A value that does not fit is left as it is; reading it
    /// says what is wrong.
    pub(crate) fn modernise(self, text: &str) -> String {
        let text = text.trim();
        match self {
            Self::Seconds => milliseconds(text).unwrap_or_else(|| text.to_owned()),
            Self::Mebibytes if text.parse::<u32>().is_ok() => format!("{text}MiB"),
            Self::Same | Self::Mebibytes => text.to_owned(),
            Self::PythonLevel => match text.to_ascii_lowercase().as_str() {
                "warning" => "warn".to_owned(),
                "critical" | "fatal" => "error".to_owned(),
                "notset" => "trace".to_owned(),
                level => level.to_owned(),
            },
        }
    }

    /// What an operator must know who writes the value anew.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Seconds => " (with its unit: `10` is now `10s`)",
            Self::Mebibytes => " (with its unit: `25` is now `25MiB`)",
            Self::PythonLevel => " (`WARNING` is now `warn`)",
        }
    }
}

/// Reads `2.5` seconds as `2500ms`, without the rounding of floating point.
fn milliseconds(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = digits.parse().ok()?;
    Some(format!("{}ms", whole.checked_mul(1_000)?.checked_add(fraction)?))
}

/// The legacy name that is spelled this way.
pub(crate) fn find(name: &str) -> Option<&'static Legacy> {
    LEGACY.iter().find(|legacy| legacy.name == name)
}

/// Why a name of the predecessor no longer means anything.
pub(crate) fn retired(name: &str) -> Option<&'static str> {
    RETIRED.iter().find(|(names, _)| names.contains(&name)).map(|(_, reason)| *reason)
}

const fn same(name: &'static str, key: &'static str) -> Legacy {
    Legacy { name, key, spelling: Spelling::Same }
}

const fn seconds(name: &'static str, key: &'static str) -> Legacy {
    Legacy { name, key, spelling: Spelling::Seconds }
}

/// Every name of the predecessor whose value is still used.
pub(crate) const LEGACY: [Legacy; 37] = [
    same("SOMA_AGENT_ENV", "SA01_DEPLOYMENT_MODE"),
    same("POSTGRES_DSN", "SA01_DB_DSN"),
    same("KAFKA_BOOTSTRAP_SERVERS", "SA01_KAFKA_BOOTSTRAP_SERVERS"),
    same("KAFKA_SECURITY_PROTOCOL", "SA01_KAFKA_SECURITY_PROTOCOL"),
    same("KAFKA_SASL_MECHANISM", "SA01_KAFKA_SASL_MECHANISM"),
    same("KAFKA_SASL_USERNAME", "SA01_KAFKA_SASL_USERNAME"),
    same("KAFKA_SASL_PASSWORD", "SA01_KAFKA_SASL_PASSWORD"),
    same("REDIS_URL", "SA01_REDIS_URL"),
    same("POLICY_BASE_URL", "SA01_POLICY_URL"),
    seconds("POLICY_CACHE_TTL", "SA01_POLICY_CACHE_TTL"),
    seconds("OPA_TIMEOUT_SECONDS", "SA01_POLICY_TIMEOUT"),
    same("CONTEXT_BUILDER_MAX_TOKENS", "SA01_MODEL_CONTEXT_TOKENS"),
    same("SOMA_BASE_URL", "SA01_SOMA_BASE_URL"),
    same("SOMA_API_KEY", "SA01_SOMA_API_KEY"),
    same("SOMA_NAMESPACE", "SA01_SOMA_NAMESPACE"),
    same("SOMA_MEMORY_NAMESPACE", "SA01_SOMA_MEMORY_NAMESPACE"),
    seconds("SOMA_TIMEOUT_SECONDS", "SA01_SOMA_TIMEOUT"),
    same("SOMABRAIN_RECALL_TOPK", "SA01_MEMORY_RECALL_LIMIT"),
    Legacy {
        name: "GATEWAY_UPLOAD_MAX_MB",
        key: "SA01_GATEWAY_MAX_UPLOAD",
        spelling: Spelling::Mebibytes,
    },
    same("GATEWAY_REQUIRE_AUTH", "SA01_AUTH_REQUIRED"),
    same("GATEWAY_JWT_SECRET", "SA01_AUTH_JWT_SECRET"),
    same("GATEWAY_JWT_PUBLIC_KEY", "SA01_AUTH_JWT_PUBLIC_KEY"),
    same("GATEWAY_JWKS_URL", "SA01_AUTH_JWKS_URL"),
    seconds("GATEWAY_JWKS_CACHE_SECONDS", "SA01_AUTH_JWKS_CACHE_TTL"),
    seconds("GATEWAY_JWKS_TIMEOUT_SECONDS", "SA01_AUTH_JWKS_TIMEOUT"),
    same("GATEWAY_JWT_ALGORITHMS", "SA01_AUTH_JWT_ALGORITHMS"),
    same("GATEWAY_JWT_AUDIENCE", "SA01_AUTH_JWT_AUDIENCE"),
    same("GATEWAY_JWT_ISSUER", "SA01_AUTH_JWT_ISSUER"),
    seconds("GATEWAY_JWT_LEEWAY", "SA01_AUTH_JWT_LEEWAY"),
    same("GATEWAY_JWT_TENANT_CLAIMS", "SA01_AUTH_JWT_TENANT_CLAIMS"),
    same("BUDGET_LIMIT_TOKENS", "SA01_TURNS_TOKENS_PER_DAY"),
    same("TOOL_WORK_DIR", "SA01_TOOLS_WORK_DIR"),
    seconds("TOOL_EXECUTOR_TIMEOUT", "SA01_TOOLS_TIMEOUT"),
    seconds("TOOL_FETCH_TIMEOUT", "SA01_TOOLS_HTTP_TIMEOUT"),
    same("TOOL_EXECUTOR_MAX_CONCURRENT", "SA01_TOOLS_CONCURRENCY"),
    same("OTLP_ENDPOINT", "SA01_OTLP_ENDPOINT"),
    Legacy { name: "LOG_LEVEL", key: "SA01_LOG_LEVEL", spelling: Spelling::PythonLevel },
];

/// The predecessor's own `SA01_` names that no longer mean anything, and why.
pub(crate) const RETIRED: [(&[&str], &str); 10] = [
    (
        &["SA01_AUTH_INTERNAL_TOKEN", "SA01_GATEWAY_BASE_URL"],
        "the services are one process and do not call each other over HTTP",
    ),
    (&["SA01_CRYPTO_FERNET_KEY"], "provider keys are no longer kept in the database"),
    (&["SA01_POLICY_DECISION_PATH"], "there is one rule for all, at a fixed path"),
    (&["SA01_SOMA_TENANT_ID"], "the tenant comes from the token"),
    (&["SA01_SOMA_ENABLED"], "SomaBrain is used where SA01_SOMA_BASE_URL is set"),
    (&["SA01_GATEWAY_PORT"], "set SA01_GATEWAY_BIND, address and port"),
    (&["SA01_DB_POOL_MIN_SIZE"], "the pool grows as it is needed"),
    (
        &[
            "SA01_MEMORY_WAL_TOPIC",
            "SA01_CONVERSATION_INBOUND",
            "SA01_CONVERSATION_OUTBOUND",
            "SA01_CONVERSATION_GROUP",
            "SA01_TOOL_REQUESTS_TOPIC",
            "SA01_TOOL_RESULTS_TOPIC",
            "SA01_UI_NOTIFICATIONS_TOPIC",
        ],
        "topics and groups have fixed names",
    ),
    (
        &[
            "SA01_KAFKA_PUBLISH_TIMEOUT_SECONDS",
            "SA01_GATEWAY_WRITE_THROUGH",
            "SA01_GATEWAY_WRITE_THROUGH_ASYNC",
        ],
        "messages always go through the store first",
    ),
    (
        &[
            "SA01_OBS_TRACE_SAMPLER",
            "SA01_VERSION",
            "SA01_FEATURE_PROFILE",
            "SA01_SSE_ENABLED",
            "SA01_ENABLE_EMBEDDINGS_INGEST",
            "SA01_ENABLE_TOOL_EVENTS",
            "SA01_ENABLE_CONTENT_MASKING",
            "SA01_ENABLE_TOKEN_METRICS",
            "SA01_ENABLE_ERROR_CLASSIFIER",
            "SA01_ENABLE_REASONING_STREAM",
            "SA01_ENABLE_ESCALATION",
            "SA01_ENABLE_AUDIO",
            "SA01_ENABLE_BROWSER",
            "SA01_FILE_SAVING_DISABLED",
            "SA01_MASK_RULES",
            "SA01_MASK_RULES_FILE",
        ],
        "it switched nothing, and there is nothing to switch",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key;

    #[test]
    fn every_legacy_name_leads_to_a_key_and_is_none_itself() {
        for legacy in &LEGACY {
            assert!(key::find(legacy.key).is_some(), "{}", legacy.key);
            assert!(key::find(legacy.name).is_none(), "{}", legacy.name);
        }
        for name in RETIRED.iter().flat_map(|(names, _)| *names) {
            assert!(key::find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn old_spellings_are_written_anew() {
        assert_eq!(Spelling::Seconds.modernise("30"), "30000ms");
        assert_eq!(Spelling::Seconds.modernise("2.5"), "2500ms");
        assert_eq!(Spelling::Seconds.modernise("soon"), "soon");
        assert_eq!(Spelling::Mebibytes.modernise("25"), "25MiB");
        assert_eq!(Spelling::PythonLevel.modernise("WARNING"), "warn");
        assert_eq!(Spelling::PythonLevel.modernise("INFO"), "info");
        assert_eq!(Spelling::Same.modernise(" x "), "x");
    }
}
