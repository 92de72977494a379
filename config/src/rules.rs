//! What settings demand of each other.

use crate::{
    central::CentralizedConfig,
    value::{JwtAlgorithm, Mode},
};

/// A demand on several keys. The first one is named as the one at fault.
pub(crate) struct Rule {
    /// The keys it reads. It is not asked while one of them is faulty in itself.
    pub(crate) keys: &'static [&'static str],
    /// Whether the configuration meets it.
    pub(crate) holds: fn(&CentralizedConfig) -> bool,
    /// What is wrong, read after the name and value.
    pub(crate) reason: &'static str,
    /// What to do about it.
    pub(crate) way_out: &'static str,
}

fn is_dev(config: &CentralizedConfig) -> bool {
    config.deployment.mode == Mode::Dev
}

/// Without these the process does not start.
pub(crate) const FAULTS: [Rule; 27] = [
    // What prod insists on.
    Rule {
        keys: &["SA01_DB_DSN", "SA01_DEPLOYMENT_MODE"],
        holds: |config| is_dev(config) || config.storage.dsn.is_some(),
        reason: "is missing: `prod` runs on PostgreSQL",
        way_out: "set it, such as `postgresql://USER:PASSWORD@HOST:5432/DATABASE`",
    },
    Rule {
        keys: &["SA01_KAFKA_BOOTSTRAP_SERVERS", "SA01_DEPLOYMENT_MODE"],
        holds: |config| is_dev(config) || config.bus.bootstrap_servers.is_some(),
        reason: "is missing: `prod` runs on Kafka",
        way_out: "set it, such as `HOST:9092`",
    },
    Rule {
        keys: &["SA01_REDIS_URL", "SA01_DEPLOYMENT_MODE"],
        holds: |config| is_dev(config) || config.live.redis_url.is_some(),
        reason: "is missing: `prod` runs on Redis",
        way_out: "set it, such as `redis://HOST:6379/0`",
    },
    Rule {
        keys: &["SA01_POLICY_URL", "SA01_DEPLOYMENT_MODE"],
        holds: |config| is_dev(config) || config.policy.url.is_some(),
        reason: "is missing: `prod` asks an OPA server",
        way_out: "set it, such as `http://HOST:8181`",
    },
    Rule {
        keys: &["SA01_AUTH_REQUIRED", "SA01_DEPLOYMENT_MODE"],
        holds: |config| is_dev(config) || config.auth.required,
        reason: "must not be off in `prod`",
        way_out: "set it to `true`, or use SA01_DEPLOYMENT_MODE=dev",
    },
    // Which engines go together.
    Rule {
        keys: &["SA01_KAFKA_BOOTSTRAP_SERVERS", "SA01_DB_DSN", "SA01_DEPLOYMENT_MODE"],
        holds: |config| {
            !is_dev(config)
                || config.bus.bootstrap_servers.is_none()
                || config.storage.dsn.is_some()
        },
        reason: "needs PostgreSQL: Kafka spreads work over processes, and SQLite belongs to one",
        way_out: "set SA01_DB_DSN and SA01_REDIS_URL too, or unset it",
    },
    Rule {
        keys: &["SA01_REDIS_URL", "SA01_DB_DSN", "SA01_DEPLOYMENT_MODE"],
        holds: |config| {
            !is_dev(config) || config.live.redis_url.is_none() || config.storage.dsn.is_some()
        },
        reason: "needs PostgreSQL: Redis is shared by processes, and SQLite belongs to one",
        way_out: "set SA01_DB_DSN and SA01_KAFKA_BOOTSTRAP_SERVERS too, or unset it",
    },
    Rule {
        keys: &[
            "SA01_KAFKA_BOOTSTRAP_SERVERS",
            "SA01_REDIS_URL",
            "SA01_DB_DSN",
            "SA01_DEPLOYMENT_MODE",
        ],
        holds: |config| {
            !is_dev(config)
                || config.storage.dsn.is_none()
                || config.bus.bootstrap_servers.is_none()
                || config.live.redis_url.is_some()
        },
        reason: "needs Redis: without it the processes that Kafka serves could not share live text, \
                 nudges and rate limits",
        way_out: "set SA01_REDIS_URL too, or unset it",
    },
    Rule {
        keys: &[
            "SA01_REDIS_URL",
            "SA01_KAFKA_BOOTSTRAP_SERVERS",
            "SA01_DB_DSN",
            "SA01_DEPLOYMENT_MODE",
        ],
        holds: |config| {
            !is_dev(config)
                || config.storage.dsn.is_none()
                || config.live.redis_url.is_none()
                || config.bus.bootstrap_servers.is_some()
        },
        reason: "needs Kafka: with the built-in bus there is one process, and nobody to share with",
        way_out: "set SA01_KAFKA_BOOTSTRAP_SERVERS too, or unset it",
    },
    Rule {
        keys: &[
            "SA01_SERVICES",
            "SA01_DB_DSN",
            "SA01_KAFKA_BOOTSTRAP_SERVERS",
            "SA01_DEPLOYMENT_MODE",
        ],
        holds: |config| {
            !is_dev(config)
                || !config.deployment.is_subset()
                || (config.storage.dsn.is_some() && config.bus.bootstrap_servers.is_some())
        },
        reason: "needs PostgreSQL and Kafka: the other services run in other processes",
        way_out: "set SA01_DB_DSN, SA01_KAFKA_BOOTSTRAP_SERVERS and SA01_REDIS_URL too, or unset it",
    },
    // Who gets in.
    Rule {
        keys: &["SA01_GATEWAY_BIND", "SA01_AUTH_REQUIRED", "SA01_DEPLOYMENT_MODE"],
        holds: |config| {
            !is_dev(config) || config.auth.required || config.gateway.bind.ip().is_loopback()
        },
        reason: "can be reached from outside, and authentication is off",
        way_out: "set SA01_AUTH_REQUIRED=true, or listen on `127.0.0.1`",
    },
    Rule {
        keys: &["SA01_ADMIN_BIND", "SA01_AUTH_REQUIRED", "SA01_DEPLOYMENT_MODE"],
        holds: |config| {
            !is_dev(config) || config.auth.required || config.gateway.admin_bind.ip().is_loopback()
        },
        reason: "can be reached from outside, and authentication is off",
        way_out: "set SA01_AUTH_REQUIRED=true, or listen on `127.0.0.1`",
    },
    Rule {
        keys: &["SA01_ADMIN_BIND", "SA01_GATEWAY_BIND"],
        holds: |config| {
            config.gateway.bind != config.gateway.admin_bind || config.gateway.bind.port() == 0
        },
        reason: "is the same as SA01_GATEWAY_BIND",
        way_out: "choose another port",
    },
    Rule {
        keys: &[
            "SA01_AUTH_REQUIRED",
            "SA01_AUTH_JWT_SECRET",
            "SA01_AUTH_JWT_PUBLIC_KEY",
            "SA01_AUTH_JWKS_URL",
        ],
        holds: |config| !config.auth.required || config.auth.has_key_source(),
        reason: "leaves nobody in: there is no key to check a token with",
        way_out: "set SA01_AUTH_JWT_SECRET, SA01_AUTH_JWT_PUBLIC_KEY or SA01_AUTH_JWKS_URL",
    },
    Rule {
        keys: &["SA01_AUTH_JWT_ALGORITHMS", "SA01_AUTH_JWT_SECRET"],
        holds: |config| {
            config.auth.jwt_secret.is_none()
                || config.auth.jwt_algorithms.contains(&JwtAlgorithm::Hs256)
        },
        reason: "has no use for SA01_AUTH_JWT_SECRET",
        way_out: "add `HS256`, or unset the secret",
    },
    Rule {
        keys: &["SA01_AUTH_JWT_ALGORITHMS", "SA01_AUTH_JWT_PUBLIC_KEY", "SA01_AUTH_JWKS_URL"],
        holds: |config| {
            let is_public = |algorithm: &JwtAlgorithm| *algorithm != JwtAlgorithm::Hs256;
            !config.auth.has_public_key_source() || config.auth.jwt_algorithms.iter().any(is_public)
        },
        reason: "has no use for a public key",
        way_out: "add `RS256` or `ES256`, or unset SA01_AUTH_JWT_PUBLIC_KEY and SA01_AUTH_JWKS_URL",
    },
    // What belongs together.
    Rule {
        keys: &[
            "SA01_KAFKA_SECURITY_PROTOCOL",
            "SA01_KAFKA_SASL_USERNAME",
            "SA01_KAFKA_SASL_PASSWORD",
        ],
        holds: |config| {
            !config.bus.security_protocol.is_sasl()
                || (config.bus.sasl_username.is_some() && config.bus.sasl_password.is_some())
        },
        reason: "needs a user and a password",
        way_out: "set SA01_KAFKA_SASL_USERNAME and SA01_KAFKA_SASL_PASSWORD",
    },
    Rule {
        keys: &["SA01_KAFKA_TLS_CERT", "SA01_KAFKA_TLS_KEY"],
        holds: |config| config.bus.tls_cert.is_some() == config.bus.tls_key.is_some(),
        reason: "is of no use without the other: a certificate needs its key",
        way_out: "set both, or unset both",
    },
    Rule {
        keys: &["SA01_MODEL_NAME", "SA01_MODEL_BASE_URL"],
        holds: |config| config.model.base_url.is_none() || config.model.name.is_some(),
        reason: "is missing: SA01_MODEL_BASE_URL is set, and the endpoint may have many models",
        way_out: "set it to the model that is to answer",
    },
    Rule {
        keys: &["SA01_MODEL_FALLBACK_NAME", "SA01_MODEL_NAME"],
        holds: |config| config.model.fallback_name.is_none() || config.model.name.is_some(),
        reason: "is set, but there is no first model to fall back from",
        way_out: "set SA01_MODEL_NAME too, or unset it",
    },
    // What must be longer or more than something else.
    Rule {
        keys: &["SA01_TURNS_HEARTBEAT", "SA01_TURNS_LEASE"],
        holds: |config| config.turns.heartbeat < config.turns.lease,
        reason: "is not shorter than SA01_TURNS_LEASE: every turn would lose its lease",
        way_out: "make it a third of the lease",
    },
    Rule {
        keys: &["SA01_SHUTDOWN_LAME_DUCK", "SA01_SHUTDOWN_DRAIN"],
        holds: |config| config.shutdown.lame_duck < config.shutdown.drain,
        reason: "is not shorter than SA01_SHUTDOWN_DRAIN: no time would be left to drain",
        way_out: "make it shorter",
    },
    Rule {
        keys: &["SA01_SHUTDOWN_DRAIN", "SA01_SHUTDOWN_KILL"],
        holds: |config| config.shutdown.drain < config.shutdown.kill,
        reason: "is not shorter than SA01_SHUTDOWN_KILL: the process would be ended while it drains",
        way_out: "make it shorter, or SA01_SHUTDOWN_KILL longer",
    },
    Rule {
        keys: &["SA01_GATEWAY_BACKLOG_PER_TENANT", "SA01_GATEWAY_BACKLOG_TOTAL"],
        holds: |config| config.gateway.backlog_per_tenant <= config.gateway.backlog_total,
        reason: "is more than SA01_GATEWAY_BACKLOG_TOTAL",
        way_out: "make it less, or SA01_GATEWAY_BACKLOG_TOTAL more",
    },
    Rule {
        keys: &["SA01_MODEL_CONNECT_TIMEOUT", "SA01_MODEL_TOTAL_TIMEOUT"],
        holds: |config| config.model.connect_timeout < config.model.total_timeout,
        reason: "is not shorter than SA01_MODEL_TOTAL_TIMEOUT: no time would be left to answer",
        way_out: "make it shorter",
    },
    Rule {
        keys: &["SA01_RETENTION_INBOX", "SA01_RETENTION_TOPICS"],
        holds: |config| config.retention.inbox > config.retention.topics,
        reason: "is not longer than SA01_RETENTION_TOPICS: a record could be taken twice",
        way_out: "make it longer",
    },
    Rule {
        keys: &["SA01_RETENTION_MEMORY_TOMBSTONES", "SA01_RETENTION_TOPICS"],
        holds: |config| config.retention.memory_tombstones > config.retention.topics,
        reason: "is not longer than SA01_RETENTION_TOPICS: a deleted memory could come back",
        way_out: "make it longer",
    },
];

/// An HS256 secret that is shorter can be guessed from one token (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;

/// These are odd, and the process starts.
pub(crate) const WARNINGS: [Rule; 4] = [
    Rule {
        keys: &["SA01_AUTH_JWT_SECRET"],
        holds: |config| {
            let secret = config.auth.jwt_secret.as_ref();
            secret.is_none_or(|secret| secret.expose().len() >= SHORTEST_SECRET)
        },
        reason: "is shorter than 32 bytes and can be guessed from one token",
        way_out: "use a longer one",
    },
    Rule {
        keys: &["SA01_MODEL_NAME", "SA01_MODEL_BASE_URL"],
        holds: |config| config.model.name.is_none() || config.model.base_url.is_some(),
        reason: "is not used: without SA01_MODEL_BASE_URL the built-in `offline` model answers",
        way_out: "set SA01_MODEL_BASE_URL, such as `https://api.openai.com/v1`",
    },
    Rule {
        keys: &["SA01_MODEL_API_KEY", "SA01_MODEL_BASE_URL"],
        holds: |config| config.model.api_key.is_none() || config.model.base_url.is_some(),
        reason: "is not used: without SA01_MODEL_BASE_URL the built-in `offline` model answers",
        way_out: "set SA01_MODEL_BASE_URL, such as `https://api.openai.com/v1`",
    },
    Rule {
        keys: &["SA01_POLICY_DIR", "SA01_POLICY_URL"],
        holds: |config| config.policy.directory.is_none() || config.policy.url.is_none(),
        reason: "is not used: SA01_POLICY_URL is set, and the OPA server has its own rules",
        way_out: "unset one of them",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key;

    #[test]
    fn every_rule_names_keys_that_exist() {
        for rule in FAULTS.iter().chain(&WARNINGS) {
            assert!(!rule.keys.is_empty());
            for name in rule.keys {
                assert!(key::find(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn the_defaults_meet_every_rule() {
        let config = CentralizedConfig::default();
        for rule in FAULTS.iter().chain(&WARNINGS) {
            assert!((rule.holds)(&config), "{:?}", rule.keys);
        }
    }
}
