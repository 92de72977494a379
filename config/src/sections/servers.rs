//! Sections about what the process talks to. Where none is named, the embedded one is used.

use std::{path::PathBuf, time::Duration};

use crate::{
    check,
    section::section,
    value::{SaslMechanism, Secret, SecurityProtocol, ServerUrl},
};

section! {
    /// Where the truth is kept.
    Storage {
        /// The directory for everything that this process keeps: the SQLite file, its lock, the
        /// files of the tools.
        "SA01_DATA_DIR" data_dir: PathBuf = PathBuf::from("./data");

        /// The PostgreSQL database; SQLite in the data directory if not set.
        #[validate(custom(function = check::postgres))]
        "SA01_DB_DSN" dsn: Option<ServerUrl> = None,
            example "postgresql://soma:PASSWORD@postgres:5432/somaagent01";

        /// How many connections to PostgreSQL this process holds at most.
        #[validate(range(min = 2, max = 10_000, message = "must be from 2 to 10000"))]
        "SA01_DB_POOL_MAX_SIZE" pool_max_size: u32 = 16;
    }
}

section! {
    /// The bus that carries what is in the store.
    Bus {
        /// The Kafka brokers; the built-in bus if not set. Needs PostgreSQL and Redis.
        #[validate(custom(function = check::brokers))]
        "SA01_KAFKA_BOOTSTRAP_SERVERS" bootstrap_servers: Option<String> = None,
            example "kafka-1:9092,kafka-2:9092";

        /// How the connection to Kafka is protected.
        "SA01_KAFKA_SECURITY_PROTOCOL" security_protocol: SecurityProtocol =
            SecurityProtocol::Plaintext;

        /// How the password is proved, where the protocol is a SASL one.
        "SA01_KAFKA_SASL_MECHANISM" sasl_mechanism: SaslMechanism = SaslMechanism::Plain;

        /// The user, where the protocol is a SASL one.
        "SA01_KAFKA_SASL_USERNAME" sasl_username: Option<String> = None, example "soma";

        /// The password, where the protocol is a SASL one.
        "SA01_KAFKA_SASL_PASSWORD" sasl_password: Option<Secret> = None, example "PASSWORD";

        /// The file with the certificates that brokers are checked against; those of the system
        /// if not set.
        "SA01_KAFKA_TLS_CA" tls_ca: Option<PathBuf> = None, example "/etc/ssl/kafka-ca.pem";

        /// The file with the certificate that this process shows to brokers; none if not set.
        "SA01_KAFKA_TLS_CERT" tls_cert: Option<PathBuf> = None,
            example "/etc/ssl/kafka-client.pem";

        /// The file with that certificate's private key.
        "SA01_KAFKA_TLS_KEY" tls_key: Option<PathBuf> = None,
            example "/etc/ssl/kafka-client.key";

        /// What stands before the names of topics and groups, so that installations can share
        /// brokers; the names as they are if not set.
        #[validate(custom(function = check::topic_prefix))]
        "SA01_KAFKA_PREFIX" prefix: Option<String> = None, example "staging.";

        /// How many partitions new topics get; existing topics keep theirs.
        #[validate(range(min = 1, max = 10_000, message = "must be from 1 to 10000"))]
        "SA01_KAFKA_PARTITIONS" partitions: u32 = 64;
    }
}

section! {
    /// What replicas share for the moment: live text, nudges, rate limits.
    Live {
        /// The Redis server; kept in this process if not set. Needs PostgreSQL and Kafka. While it
        /// is away streams show only what is in the store, and each replica grants every caller
        /// the whole rate limit.
        #[validate(custom(function = check::redis))]
        "SA01_REDIS_URL" redis_url: Option<ServerUrl> = None, example "redis://redis:6379/0";

        /// What the names of all keys and channels in Redis begin with; systems that share a
        /// server need different ones.
        "SA01_REDIS_PREFIX" redis_prefix: String = "soma:".to_owned();
    }
}

section! {
    /// Who may do what.
    Policy {
        /// The OPA server; the rules are evaluated in this process if not set.
        #[validate(custom(function = check::http))]
        "SA01_POLICY_URL" url: Option<ServerUrl> = None, example "http://opa:8181";

        /// The directory with the `.rego` files that are evaluated in this process; the built-in
        /// ones if not set.
        "SA01_POLICY_DIR" directory: Option<PathBuf> = None, example "/etc/somaagent/policy";

        /// How long a decision holds; `0s`: each is asked for anew.
        "SA01_POLICY_CACHE_TTL" cache_ttl: Duration = Duration::from_secs(2);

        /// How long a decision may take; no answer means no.
        #[validate(custom(function = check::positive))]
        "SA01_POLICY_TIMEOUT" timeout: Duration = Duration::from_secs(3);
    }
}

section! {
    /// The language model.
    Model {
        /// The base URL of an endpoint that speaks OpenAI's protocol, `/v1` included; the built-in
        /// `offline` model answers if not set.
        #[validate(custom(function = check::http))]
        "SA01_MODEL_BASE_URL" base_url: Option<ServerUrl> = None, example "https://api.openai.com/v1";

        /// The key for that endpoint; none is sent if not set.
        "SA01_MODEL_API_KEY" api_key: Option<Secret> = None, example "sk-KEY";

        /// The model that answers, by the endpoint's name for it.
        "SA01_MODEL_NAME" name: Option<String> = None, example "gpt-5-mini";

        /// The model of the same endpoint that is asked when the first one cannot answer.
        "SA01_MODEL_FALLBACK_NAME" fallback_name: Option<String> = None, example "gpt-5-nano";

        /// How long connecting may take.
        #[validate(custom(function = check::positive))]
        "SA01_MODEL_CONNECT_TIMEOUT" connect_timeout: Duration = Duration::from_secs(5);

        /// How long the endpoint may be silent, before the first word and between two of them.
        #[validate(custom(function = check::positive))]
        "SA01_MODEL_READ_TIMEOUT" read_timeout: Duration = Duration::from_mins(1);

        /// How long one answer may take in all.
        #[validate(custom(function = check::positive))]
        "SA01_MODEL_TOTAL_TIMEOUT" total_timeout: Duration = Duration::from_mins(5);

        /// How often a call is repeated that failed before its first word.
        "SA01_MODEL_MAX_RETRIES" max_retries: u32 = 2;

        /// How many tokens of instructions, memories and history are sent with a turn at most.
        #[validate(range(min = 512, message = "must be 512 or more"))]
        "SA01_MODEL_CONTEXT_TOKENS" context_tokens: u32 = 4_096;

        /// The pause after each word of the `offline` model; `0s`: none.
        "SA01_MODEL_OFFLINE_WORD_DELAY" offline_word_delay: Duration = Duration::from_millis(20);
    }
}

section! {
    /// The memory service and what is recalled from it.
    Memory {
        /// The SomaBrain server; memories are kept in the store if not set.
        #[validate(custom(function = check::http))]
        "SA01_SOMA_BASE_URL" base_url: Option<ServerUrl> = None, example "http://somabrain:9696";

        /// The key for SomaBrain; none is sent if not set.
        "SA01_SOMA_API_KEY" api_key: Option<Secret> = None, example "KEY";

        /// The universe in SomaBrain; its own default if not set.
        "SA01_SOMA_NAMESPACE" universe: Option<String> = None, example "production";

        /// The namespace of memories in SomaBrain.
        "SA01_SOMA_MEMORY_NAMESPACE" namespace: String = "wm".to_owned();

        /// How long one call to SomaBrain may take.
        #[validate(custom(function = check::positive))]
        "SA01_SOMA_TIMEOUT" timeout: Duration = Duration::from_secs(30);

        /// How many memories a turn recalls at most.
        "SA01_MEMORY_RECALL_LIMIT" recall_limit: u32 = 8;
    }
}
